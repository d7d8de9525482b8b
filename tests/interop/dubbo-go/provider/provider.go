// Serves com.demo.GreetService, group g1, version 1.0.0, on the port that is its argument.
package main

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"

	"dubbo.apache.org/dubbo-go/v3/config"

	"greet/greet"
)

// dubbo-go reads requests in hessian2 only.
const hessian2 = 2

// Greeter is the service.
type Greeter struct {
	lock  sync.Mutex
	notes map[string]int32
}

// Reference names the service in the configuration.
func (*Greeter) Reference() string { return "greeter" }

// MethodMapper says what the methods are called in Java.
func (*Greeter) MethodMapper() map[string]string {
	return map[string]string{
		"SayHello": "sayHello", "Same": "same", "SameBytes": "sameBytes", "SamePerson": "samePerson", "Join": "join", "Fail": "fail",
		"Note": "note", "Noted": "noted", "Serialization": "serialization",
	}
}

func (*Greeter) SayHello(_ context.Context, name string) (string, error) {
	return "hello " + name, nil
}

// Same takes its arguments as they come, as dubbo-go puts an empty value where a null was.
func (*Greeter) Same(_ context.Context, arguments []interface{}) (interface{}, error) {
	return arguments[0], nil
}

func (*Greeter) SameBytes(_ context.Context, bytes []byte) ([]byte, error) {
	return bytes, nil
}

func (*Greeter) SamePerson(_ context.Context, arguments []interface{}) (interface{}, error) {
	return arguments[0], nil
}

func (*Greeter) Join(
	_ context.Context, number int32, large int64, real float64, truth bool, text string, numbers []int32, people map[interface{}]interface{},
) (string, error) {
	names := make([]string, 0, len(people))
	for key, person := range people {
		names = append(names, fmt.Sprintf("%s:%s", key, person.(*greet.Person).Name))
	}
	sort.Strings(names)
	list := strings.ReplaceAll(fmt.Sprint(numbers), " ", ", ")
	return fmt.Sprintf("%d %d %g %t %s %s %s", number, large, real, truth, text, list, strings.Join(names, " ")), nil
}

func (*Greeter) Fail(_ context.Context, reason string, code int32) error {
	return &greet.GreetException{DetailMessage: reason, Code: code}
}

func (g *Greeter) Note(_ context.Context, text string) error {
	g.lock.Lock()
	defer g.lock.Unlock()
	g.notes[text]++
	return nil
}

func (g *Greeter) Noted(_ context.Context, text string) (int32, error) {
	g.lock.Lock()
	defer g.lock.Unlock()
	return g.notes[text], nil
}

func (*Greeter) Serialization(_ context.Context) (int32, error) {
	return hessian2, nil
}

func main() {
	config.SetProviderService(&Greeter{notes: map[string]int32{}})
	service := config.NewServiceConfigBuilder().
		SetInterface(greet.Interface).SetGroup(greet.Group).SetVersion(greet.Version).
		SetProtocolIDs("dubbo").SetNotRegister(true).
		Build()
	root := config.NewRootConfigBuilder().
		SetProvider(config.NewProviderConfigBuilder().AddService("greeter", service).Build()).
		AddProtocol("dubbo", greet.Protocol(os.Args[1])).
		Build()
	if err := config.Load(config.WithRootConfig(root)); err != nil {
		panic(err)
	}
	fmt.Println("provider ready")
	select {}
}
