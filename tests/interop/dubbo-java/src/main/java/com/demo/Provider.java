package com.demo;

import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ArgumentConfig;
import org.apache.dubbo.config.MethodConfig;
import org.apache.dubbo.config.ProtocolConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;
import org.apache.dubbo.rpc.RpcContext;

/** Serves {@link GreetService}, group g1, version 1.0.0, on the port that is its argument. */
public final class Provider {
    private Provider() {}

    public static void main(String[] arguments) {
        ProtocolConfig protocol = new ProtocolConfig("dubbo", Integer.parseInt(arguments[0]));
        protocol.setHost("127.0.0.1");
        protocol.setPreferSerialization("hessian2,fastjson2");

        ServiceConfig<GreetService> service = new ServiceConfig<>();
        service.setInterface(GreetService.class);
        service.setRef(new Greeter());
        service.setGroup("g1");
        service.setVersion("1.0.0");
        ArgumentConfig watcher = new ArgumentConfig();
        watcher.setIndex(2);
        watcher.setCallback(true);
        MethodConfig watch = new MethodConfig();
        watch.setName("watch");
        watch.setArguments(List.of(watcher));
        service.setMethods(List.of(watch));
        // For callbacks: long, so that a busy machine does not look like a consumer that does not answer.
        service.setTimeout(20_000);

        ApplicationConfig application = new ApplicationConfig("greeter");
        application.setQosEnable(false);
        DubboBootstrap.getInstance()
                .application(application)
                .registry(new RegistryConfig("N/A"))
                .protocol(protocol)
                .service(service)
                .start();
        System.out.println("provider ready");
        DubboBootstrap.getInstance().await();
    }

    private static final class Greeter implements GreetService {
        private final Map<String, AtomicInteger> notes = new ConcurrentHashMap<>();
        private final Map<String, AtomicInteger> watches = new ConcurrentHashMap<>();

        @Override
        public String sayHello(String name) {
            return "hello " + name;
        }

        @Override
        public String same(String text) {
            return text;
        }

        @Override
        public byte[] sameBytes(byte[] bytes) {
            return bytes;
        }

        @Override
        public Person samePerson(Person person) {
            return person;
        }

        @Override
        public String join(
                int number, long large, double real, boolean truth, String text, int[] numbers, Map<String, Person> people) {
            StringBuilder names = new StringBuilder();
            new TreeMap<>(people).forEach((key, person) -> names.append(key).append(':').append(person.name).append(' '));
            return number + " " + large + " " + real + " " + truth + " " + text + " " + Arrays.toString(numbers) + " "
                    + names.toString().trim();
        }

        @Override
        public void fail(String reason, int code) throws GreetException {
            throw new GreetException(reason, code);
        }

        @Override
        public void note(String text) {
            notes.computeIfAbsent(text, any -> new AtomicInteger()).incrementAndGet();
        }

        @Override
        public int noted(String text) {
            AtomicInteger count = notes.get(text);
            return count == null ? 0 : count.get();
        }

        @Override
        public String watch(String topic, int times, Watcher watcher) {
            AtomicInteger answered = watches.computeIfAbsent(topic, any -> new AtomicInteger());
            new Thread(() -> {
                for (int number = 1; number <= times; number++) {
                    if ((topic + " is " + number).equals(watcher.changed(topic, number))) {
                        answered.incrementAndGet();
                    }
                }
            }).start();
            return watcher.changed(topic, 0);
        }

        @Override
        public int watched(String topic) {
            AtomicInteger count = watches.get(topic);
            return count == null ? 0 : count.get();
        }

        @Override
        public int serialization() {
            Object id = RpcContext.getServiceContext().getInvocation().get("serialization_id");
            return id instanceof Number number ? number.intValue() : -1;
        }
    }
}
