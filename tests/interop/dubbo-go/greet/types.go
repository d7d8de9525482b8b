// Package greet is what both sides of the Go suite know: the types of com.demo in dubbo-java, and the settings of dubbo-go.
package greet

import (
	"time"

	hessian "github.com/apache/dubbo-go-hessian2"
	"github.com/apache/dubbo-go-hessian2/java_exception"
)

// Where the service is found.
const (
	Interface = "com.demo.GreetService"
	Group     = "g1"
	Version   = "1.0.0"
)

// Mood is an enum as a field.
type Mood hessian.JavaEnum

const (
	Glad Mood = iota
	Tired
)

var moods = map[Mood]string{Glad: "GLAD", Tired: "TIRED"}

func (m Mood) String() string      { return moods[m] }
func (Mood) JavaClassName() string { return "com.demo.Person$Mood" }

func (Mood) EnumValue(name string) hessian.JavaEnum {
	for mood, known := range moods {
		if known == name {
			return hessian.JavaEnum(mood)
		}
	}
	return hessian.InvalidJavaEnum
}

// Address is a class inside the class. In dubbo-go no field is null but a pointer to a struct.
type Address struct {
	Street string `hessian:"street"`
	Number int32  `hessian:"number"`
}

func (*Address) JavaClassName() string { return "com.demo.Person$Address" }

// Person is an object with objects inside.
type Person struct {
	Name    string                      `hessian:"name"`
	Age     int32                       `hessian:"age"`
	ID      int64                       `hessian:"id"`
	Height  float64                     `hessian:"height"`
	Mood    Mood                        `hessian:"mood"`
	Born    time.Time                   `hessian:"born"`
	Home    *Address                    `hessian:"home"`
	Work    *Address                    `hessian:"work"`
	Nothing *Address                    `hessian:"nothing"`
	Friends []*Person                   `hessian:"friends"`
	Scores  map[interface{}]interface{} `hessian:"scores"`
}

func (*Person) JavaClassName() string { return "com.demo.Person" }

// GreetException is the service's own exception, which travels as a result.
type GreetException struct {
	DetailMessage        string
	Code                 int32
	SuppressedExceptions []java_exception.Throwabler
	StackTrace           []java_exception.StackTraceElement
	Cause                java_exception.Throwabler
}

func (e *GreetException) Error() string       { return e.DetailMessage }
func (*GreetException) JavaClassName() string { return "com.demo.GreetException" }

func (e *GreetException) GetStackTrace() []java_exception.StackTraceElement { return e.StackTrace }

func init() {
	hessian.RegisterPOJO(&Address{})
	hessian.RegisterPOJO(&Person{})
	hessian.RegisterPOJO(&GreetException{})
	for mood := range moods {
		hessian.RegisterJavaEnum(mood)
	}
}
