package com.demo;

/** The service's own exception, which travels as a result. */
public class GreetException extends Exception {
    private static final long serialVersionUID = 1L;

    private int code;

    /** What fastjson2 looks for: with a constructor that takes nothing it would lose the message. */
    public GreetException(String message) {
        super(message);
    }

    public GreetException(String message, int code) {
        super(message);
        this.code = code;
    }

    public int getCode() {
        return code;
    }
}
