package com.demo;

import java.io.DataInputStream;
import java.io.IOException;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.MethodConfig;
import org.apache.dubbo.config.ReferenceConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;

/**
 * Calls every method of {@link GreetService} at the port and in the serialization that are its arguments, and checks
 * what comes back. Prints a line for each check; exits with 0 if all of them hold.
 *
 * <p>A third argument names the host. Mind that Dubbo replaces 127.0.0.1 and localhost by the address of the first
 * network interface (NetUtils.filterLocalHost), so that what listens on the loopback interface only is reached by
 * another name. If there is a fourth argument, callbacks are checked, too.
 */
public final class Consumer {
    private static final int LARGE_BYTES = 2 * 1024 * 1024;
    private static final int THREADS = 16;
    private static final int CALLS_PER_THREAD = 50;
    private static final int HEARTBEAT_MS = 1000;
    /** Long, so that a busy machine does not look like a dead provider. */
    private static final int HEARTBEAT_TIMEOUT_MS = 60_000;
    /** Dubbo's own three seconds are not many for a JVM that starts beside others. */
    private static final int CONNECT_TIMEOUT_MS = 60_000;
    /** Whether what a friend has may be null or empty: dubbo-go makes empty ones of null, and null of an empty list. */
    private static final boolean NULLS = !Boolean.getBoolean("greet.without-nulls");
    /** dubbo-go closes the connection, as it may. */
    private static final boolean STRAY = !Boolean.getBoolean("greet.without-stray");

    private final GreetService greeter;
    private final String serialization;
    private final String host;
    private final int port;
    private final boolean callbacks;
    private int failures;

    private Consumer(GreetService greeter, String serialization, String host, int port, boolean callbacks) {
        this.greeter = greeter;
        this.serialization = serialization;
        this.host = host;
        this.port = port;
        this.callbacks = callbacks;
    }

    public static void main(String[] arguments) {
        int port = Integer.parseInt(arguments[0]);
        String serialization = arguments[1];
        String host = arguments.length > 2 ? arguments[2] : "127.0.0.1";
        MethodConfig note = new MethodConfig();
        note.setName("note");
        note.setReturn(false);

        ReferenceConfig<GreetService> reference = new ReferenceConfig<>();
        reference.setInterface(GreetService.class);
        reference.setGroup("g1");
        reference.setVersion("1.0.0");
        reference.setTimeout(20_000);
        reference.setRetries(0);
        reference.setMethods(List.of(note));
        reference.setParameters(Map.of("url-merge-processor", "whole"));
        // Shared by all threads, so that their calls are multiplexed; short heartbeats, so that some happen here.
        reference.setUrl("dubbo://" + host + ":" + port + "?prefer.serialization=" + serialization + "&serialization="
                + serialization + "&connections=1&watch.2.callback=true&heartbeat=" + HEARTBEAT_MS
                + "&heartbeat.timeout=" + HEARTBEAT_TIMEOUT_MS + "&connect.timeout=" + CONNECT_TIMEOUT_MS);

        ApplicationConfig application = new ApplicationConfig("caller");
        application.setQosEnable(false);
        DubboBootstrap.getInstance()
                .application(application)
                .registry(new RegistryConfig("N/A"))
                .reference(reference)
                .start();
        Consumer consumer = new Consumer(reference.get(), serialization, host, port, arguments.length > 3);
        consumer.run();
        DubboBootstrap.getInstance().stop();
        System.exit(consumer.failures == 0 ? 0 : 1);
    }

    private void run() {
        check("a string", () -> greeter.sayHello("shmesh").equals("hello shmesh"));
        check("written in " + serialization, () -> greeter.serialization() == (serialization.equals("hessian2") ? 2 : 23));
        check("text beyond ASCII and the BMP", () -> same("é 中文 \uD83D\uDE00 end"));
        check("the empty string", () -> same(""));
        check("null in and out", () -> greeter.same(null) == null);
        check("null for an object", () -> greeter.samePerson(null) == null);
        check("nested objects", () -> person().equals(greeter.samePerson(person())));
        check("seven arguments", this::join);
        check("a business exception", this::fail);
        check("no bytes", () -> greeter.sameBytes(new byte[0]).length == 0);
        check("2 MB of bytes", this::largeBytes);
        check("2 MB of text", () -> same("0123456789abcdef".repeat(LARGE_BYTES / 16)));
        check("2 MB of Chinese text", () -> same("一二三四五六七八".repeat(LARGE_BYTES / 24)));
        if (STRAY) {
            check("an extended frame that nobody agreed to", this::stray);
        }
        check("one-way calls", this::notes);
        if (callbacks) {
            check("callbacks", this::watch);
        }
        check(THREADS + " threads with " + CALLS_PER_THREAD + " calls each", this::parallel);
        check("a call after three heartbeats", () -> {
            Thread.sleep(3 * HEARTBEAT_MS + HEARTBEAT_MS / 2);
            return same("still here");
        });
    }

    /**
     * docs/spec/dubbo-ext-v1.md: what is answered is status 40 (Dubbo 3.2 and 3.3 answer nothing), and the connection goes on: a
     * heartbeat behind it is answered.
     */
    private boolean stray() throws IOException {
        byte[] body = "@\1\0\16\2\0\1\0\1S\2\0\1m\0052.0.2\1S\0050.0.0\1m\0N".getBytes(StandardCharsets.ISO_8859_1);
        try (Socket socket = new Socket(host, port)) {
            socket.setSoTimeout(20_000);
            send(socket, (byte) 0xdf, 7, body);
            send(socket, (byte) 0xe2, 8, new byte[] {'N'});
            boolean holds = true;
            ByteBuffer answer = receive(socket);
            while (holds && answer.getLong(4) == 7) {
                holds = (answer.get(2) & 0xe0) == 0 && answer.get(3) == 40;
                answer = receive(socket);
            }
            return holds && (answer.get(2) & 0xe0) == 0x20 && answer.get(3) == 20 && answer.getLong(4) == 8;
        }
    }

    private static void send(Socket socket, byte flags, long id, byte[] body) throws IOException {
        ByteBuffer frame = ByteBuffer.allocate(16 + body.length);
        frame.putShort((short) 0xdabb).put(flags).put((byte) 0).putLong(id).putInt(body.length).put(body);
        socket.getOutputStream().write(frame.array());
    }

    /** The header of the next frame. */
    private static ByteBuffer receive(Socket socket) throws IOException {
        DataInputStream input = new DataInputStream(socket.getInputStream());
        byte[] header = new byte[16];
        input.readFully(header);
        input.readFully(new byte[ByteBuffer.wrap(header).getInt(12)]);
        return ByteBuffer.wrap(header);
    }

    private void check(String name, Callable<Boolean> holds) {
        String outcome;
        try {
            outcome = holds.call() ? "ok" : "WRONG";
        } catch (Exception exception) {
            outcome = "FAILED: " + exception;
        }
        if (!outcome.equals("ok")) {
            failures++;
        }
        System.out.println(serialization + ": " + name + ": " + outcome);
    }

    private boolean same(String text) {
        return text.equals(greeter.same(text));
    }

    private boolean join() {
        Person mina = new Person();
        mina.name = "Mina";
        // The class behind Map.of is one that Dubbo 3.2 does not let through.
        Map<String, Person> people = new HashMap<>(Map.of("m", mina, "p", person()));
        String joined = greeter.join(-7, 1L << 40, 2.5, true, "text", new int[] {1, 70_000}, people);
        return joined.equals("-7 1099511627776 2.5 true text [1, 70000] m:Mina p:Ada");
    }

    private boolean fail() {
        try {
            greeter.fail("no tea", 42);
            return false;
        } catch (GreetException exception) {
            return "no tea".equals(exception.getMessage()) && exception.getCode() == 42;
        }
    }

    private boolean largeBytes() {
        byte[] bytes = new byte[LARGE_BYTES];
        new Random(7).nextBytes(bytes);
        return Arrays.equals(bytes, greeter.sameBytes(bytes));
    }

    /** Nothing answers a one-way call, so wait until the notes have come. */
    private boolean notes() throws InterruptedException {
        String text = UUID.randomUUID().toString();
        for (int i = 0; i < 10; i++) {
            greeter.note(text);
        }
        for (int i = 0; i < 100 && greeter.noted(text) < 10; i++) {
            Thread.sleep(20);
        }
        return greeter.noted(text) == 10;
    }

    /** A callback while the call is under way, and more after it, beside calls. */
    private boolean watch() throws InterruptedException {
        String topic = UUID.randomUUID().toString();
        int times = 50;
        String first = greeter.watch(topic, times, (of, number) -> of + " is " + number);
        boolean right = first.equals(topic + " is 0");
        for (int i = 0; i < 3000 && greeter.watched(topic) < times; i++) {
            right &= same("call " + i);
            Thread.sleep(20);
        }
        return right && greeter.watched(topic) == times;
    }

    private boolean parallel() throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(THREADS);
        List<Future<Boolean>> outcomes = new ArrayList<>();
        for (int thread = 0; thread < THREADS; thread++) {
            String name = "thread " + thread;
            outcomes.add(threads.submit(() -> {
                for (int call = 0; call < CALLS_PER_THREAD; call++) {
                    String text = name + " call " + call + " ".repeat(call * 37);
                    if (!("hello " + text).equals(greeter.sayHello(text))) {
                        return false;
                    }
                }
                return true;
            }));
        }
        boolean all = true;
        for (Future<Boolean> outcome : outcomes) {
            all &= outcome.get(30, TimeUnit.SECONDS);
        }
        threads.shutdown();
        return all;
    }

    private static Person person() {
        Person ada = new Person();
        ada.name = "Ada";
        ada.age = 36;
        ada.id = 0x1234_5678_9abcL;
        ada.height = 1.65;
        ada.mood = Person.Mood.GLAD;
        ada.born = new Date(1_000_000_123L);
        ada.home = new Person.Address("St James's Square", 12);
        ada.work = ada.home;
        for (int i = 0; i < 3; i++) {
            Person friend = new Person();
            friend.name = "friend " + i;
            friend.mood = Person.Mood.TIRED;
            friend.home = new Person.Address(null, null);
            if (!NULLS) {
                friend.home = new Person.Address("", 0);
                friend.friends = null;
            }
            ada.friends.add(friend);
        }
        ada.scores.put("chess", new ArrayList<>(List.of(1L, 300L, 1L << 33)));
        ada.scores.put("none", new ArrayList<>());
        return ada;
    }
}
