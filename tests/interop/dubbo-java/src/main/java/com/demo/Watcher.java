package com.demo;

/** What a provider calls back. */
public interface Watcher {
    /** Gives back what the consumer makes of it. */
    String changed(String topic, int number);
}
