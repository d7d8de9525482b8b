package greet

import (
	// What of dubbo-go is used: all of it (dubbo-go's imports) would be some five hundred packages more.
	_ "dubbo.apache.org/dubbo-go/v3/cluster/cluster/failover"
	_ "dubbo.apache.org/dubbo-go/v3/cluster/loadbalance/random"
	"dubbo.apache.org/dubbo-go/v3/config"
	_ "dubbo.apache.org/dubbo-go/v3/filter/accesslog"
	_ "dubbo.apache.org/dubbo-go/v3/filter/echo"
	_ "dubbo.apache.org/dubbo-go/v3/filter/exec_limit"
	_ "dubbo.apache.org/dubbo-go/v3/filter/generic"
	_ "dubbo.apache.org/dubbo-go/v3/filter/graceful_shutdown"
	_ "dubbo.apache.org/dubbo-go/v3/filter/token"
	_ "dubbo.apache.org/dubbo-go/v3/filter/tps"
	_ "dubbo.apache.org/dubbo-go/v3/protocol/dubbo"
	_ "dubbo.apache.org/dubbo-go/v3/proxy/proxy_factory"
	_ "dubbo.apache.org/dubbo-go/v3/registry/protocol"
)

// messageBytesMax is above dubbo-go's own 100 KiB, as some arguments are large, and below Dubbo's 8 MiB.
const messageBytesMax = 8 << 20

// Protocol is Dubbo2 on a port: heartbeats each second, so that some happen, and timeouts that a busy machine does not reach.
func Protocol(port string) *config.ProtocolConfig {
	return config.NewProtocolConfigBuilder().
		SetName("dubbo").
		SetIp("127.0.0.1").
		SetPort(port).
		SetParams(map[string]interface{}{
			"connection-number": 1,
			"heartbeat-period":  "1s",
			"heartbeat-timeout": "60s",
			"session-timeout":   "180s",
			"getty-session-param": map[string]interface{}{
				"max-msg-len":       messageBytesMax,
				"tcp-write-timeout": "60s",
			},
		}).
		Build()
}
