package com.demo;

import java.util.Map;

/** What the interop test calls: every kind of argument, result and failure that a proxy has to carry. */
public interface GreetService {
    String sayHello(String name);

    /** Gives back its argument, null included. */
    String same(String text);

    byte[] sameBytes(byte[] bytes);

    Person samePerson(Person person);

    /** Several arguments of different kinds. */
    String join(int number, long large, double real, boolean truth, String text, int[] numbers, Map<String, Person> people);

    /** Always throws. */
    void fail(String reason, int code) throws GreetException;

    /** Is called one-way. */
    void note(String text);

    /** How many notes with this text have come. */
    int noted(String text);

    /** Calls the watcher back: once before this returns, {@code times} times afterwards. Gives back what it said first. */
    String watch(String topic, int times, Watcher watcher);

    /** How many of the later callbacks for this topic have been answered as they should. */
    int watched(String topic);

    /** The number of the serialization in which this call was written. */
    int serialization();
}
