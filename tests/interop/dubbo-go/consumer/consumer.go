// Calls com.demo.GreetService at the port that is its argument and checks what comes back. Prints a line for each check.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"dubbo.apache.org/dubbo-go/v3/config"

	"greet/greet"
)

const (
	largeBytes         = 2 << 20
	goroutines         = 16
	callsPerGoroutine  = 50
	heartbeat          = time.Second
	requestTimeout     = "60s"
	consumerSecondsMax = 300
)

type greetService struct {
	SayHello   func(ctx context.Context, name string) (string, error)                 `dubbo:"sayHello"`
	Same       func(ctx context.Context, text string) (string, error)                 `dubbo:"same"`
	SameBytes  func(ctx context.Context, bytes []byte) ([]byte, error)                `dubbo:"sameBytes"`
	SamePerson func(ctx context.Context, person *greet.Person) (*greet.Person, error) `dubbo:"samePerson"`
	Join       func(
		ctx context.Context, number int32, large int64, real float64, truth bool, text string, numbers []int32,
		people map[interface{}]interface{},
	) (string, error) `dubbo:"join"`
	Fail          func(ctx context.Context, reason string, code int32) (interface{}, error) `dubbo:"fail"`
	Serialization func(ctx context.Context) (int32, error)                                  `dubbo:"serialization"`
}

var (
	ctx      = context.Background()
	greeter  = &greetService{}
	failures = 0
)

func check(name string, holds func() error) {
	if err := holds(); err != nil {
		failures++
		fmt.Printf("FAILED %s: %.300v\n", name, err)
		return
	}
	fmt.Printf("ok %s\n", name)
}

func same(text string) error {
	got, err := greeter.Same(ctx, text)
	if err == nil && got != text {
		err = fmt.Errorf("got %d bytes of %d, or others: %.100q", len(got), len(text), got)
	}
	return err
}

func sameBytes(size int) error {
	sent := make([]byte, size)
	rand.New(rand.NewSource(7)).Read(sent)
	got, err := greeter.SameBytes(ctx, sent)
	if err == nil && !bytes.Equal(got, sent) {
		err = fmt.Errorf("got %d bytes of %d, or others", len(got), size)
	}
	return err
}

func person() *greet.Person {
	home := &greet.Address{Street: "St James's Square", Number: 12}
	ada := &greet.Person{
		Name: "Ada", Age: 36, ID: 0x1234_5678_9abc, Height: 1.65, Mood: greet.Tired, Born: time.UnixMilli(1_000_000_123), Home: home, Work: home,

		Scores: map[interface{}]interface{}{
			"chess": []interface{}{int64(1), int64(300), int64(1) << 33}, "none": []interface{}{},
		},
	}
	for i := 0; i < 3; i++ {
		ada.Friends = append(ada.Friends, &greet.Person{
			Name: fmt.Sprintf("friend %d", i), Home: &greet.Address{}, Scores: map[interface{}]interface{}{},
			Born: time.UnixMilli(int64(i) * 60_000),
		})
	}
	return ada
}

func samePerson() error {
	got, err := greeter.SamePerson(ctx, person())
	if err != nil {
		return err
	}
	if got.Home != got.Work {
		return errors.New("what was one object are two")
	}
	if !reflect.DeepEqual(got, person()) {
		return fmt.Errorf("got %+v", got)
	}
	return nil
}

func join() error {
	// Nothing is shared in here: behind an enum dubbo-go-hessian2 1.12 counts what is referred to otherwise when it writes than when it reads.
	people := map[interface{}]interface{}{"m": &greet.Person{Name: "Mina"}, "p": &greet.Person{Name: "Ada"}}
	got, err := greeter.Join(ctx, -7, 1<<40, 2.5, true, "text", []int32{1, 70_000}, people)
	if err == nil && got != "-7 1099511627776 2.5 true text [1, 70000] m:Mina p:Ada" {
		err = fmt.Errorf("got %q", got)
	}
	return err
}

func fail() error {
	_, err := greeter.Fail(ctx, "no tea", 42)
	var thrown *greet.GreetException
	if !errors.As(err, &thrown) || thrown.DetailMessage != "no tea" || thrown.Code != 42 {
		return fmt.Errorf("got %T: %v", err, err)
	}
	return nil
}

func parallel() error {
	var all sync.WaitGroup
	outcomes := make(chan error, goroutines)
	for routine := 0; routine < goroutines; routine++ {
		all.Add(1)
		go func(routine int) {
			defer all.Done()
			for call := 0; call < callsPerGoroutine; call++ {
				text := fmt.Sprintf("goroutine %d call %d%s", routine, call, strings.Repeat(" ", call*37))
				got, err := greeter.SayHello(ctx, text)
				if err == nil && got != "hello "+text {
					err = fmt.Errorf("got %q", got)
				}
				if err != nil {
					outcomes <- err
					return
				}
			}
		}(routine)
	}
	all.Wait()
	close(outcomes)
	return <-outcomes
}

func main() {
	time.AfterFunc(consumerSecondsMax*time.Second, func() { panic("took too long") })
	config.SetConsumerService(greeter)
	reference := config.NewReferenceConfigBuilder().
		SetInterface(greet.Interface).SetGroup(greet.Group).SetVersion(greet.Version).
		SetProtocol("dubbo").SetURL("dubbo://127.0.0.1:" + os.Args[1]).SetRequestTimeout(requestTimeout).SetRetries("0").
		Build()
	root := config.NewRootConfigBuilder().
		SetConsumer(config.NewConsumerConfigBuilder().SetRequestTimeout(requestTimeout).AddReference("greetService", reference).Build()).
		AddProtocol("dubbo", greet.Protocol("0")).
		Build()
	if err := config.Load(config.WithRootConfig(root)); err != nil {
		panic(err)
	}

	check("a string", func() error {
		got, err := greeter.SayHello(ctx, "shmesh")
		if err == nil && got != "hello shmesh" {
			err = fmt.Errorf("got %q", got)
		}
		return err
	})
	check("written in hessian2", func() error {
		got, err := greeter.Serialization(ctx)
		if err == nil && got != 2 {
			err = fmt.Errorf("got %d", got)
		}
		return err
	})
	check("text beyond ASCII and the BMP", func() error { return same("é 中文 \U0001F600 end") })
	check("the empty string", func() error { return same("") })
	// dubbo-go makes an empty object of a null.
	check("null for an object", func() error {
		got, err := greeter.SamePerson(ctx, (*greet.Person)(nil))
		if err == nil && !reflect.DeepEqual(got, &greet.Person{}) {
			err = fmt.Errorf("got %+v", got)
		}
		return err
	})
	check("nested objects", samePerson)
	check("seven arguments", join)
	check("a business exception", fail)
	check("no bytes", func() error { return sameBytes(0) })
	check("2 MB of bytes", func() error { return sameBytes(largeBytes) })
	check("2 MB of text", func() error { return same(strings.Repeat("0123456789abcdef", largeBytes/16)) })
	check("2 MB of Chinese text", func() error { return same(strings.Repeat("一二三四五六七八", largeBytes/24)) })
	check(fmt.Sprintf("%d goroutines with %d calls each", goroutines, callsPerGoroutine), parallel)
	check("a call after three heartbeats", func() error {
		time.Sleep(3*heartbeat + heartbeat/2)
		return same("still here")
	})
	if failures > 0 {
		os.Exit(1)
	}
}
