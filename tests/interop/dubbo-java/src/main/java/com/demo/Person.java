package com.demo;

import java.io.Serializable;
import java.util.ArrayList;
import java.util.Date;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/** An object with objects inside: lists, maps, enums, dates, null, and the same object twice. */
public class Person implements Serializable {
    private static final long serialVersionUID = 1L;

    /** An enum as a field. */
    public enum Mood {
        GLAD,
        TIRED
    }

    /** A class inside the class. */
    public static class Address implements Serializable {
        private static final long serialVersionUID = 1L;

        public String street;
        public Integer number;

        public Address() {}

        public Address(String street, Integer number) {
            this.street = street;
            this.number = number;
        }

        @Override
        public boolean equals(Object other) {
            return other instanceof Address that && Objects.equals(street, that.street) && Objects.equals(number, that.number);
        }

        @Override
        public int hashCode() {
            return Objects.hash(street, number);
        }
    }

    public String name;
    public int age;
    public long id;
    public double height;
    public Mood mood;
    public Date born;
    public Address home;
    public Address work;
    public String nothing;
    public List<Person> friends = new ArrayList<>();
    public Map<String, List<Long>> scores = new LinkedHashMap<>();

    @Override
    public boolean equals(Object other) {
        return other instanceof Person that
                && Objects.equals(name, that.name)
                && age == that.age
                && id == that.id
                && height == that.height
                && mood == that.mood
                && Objects.equals(born, that.born)
                && Objects.equals(home, that.home)
                && Objects.equals(work, that.work)
                && Objects.equals(nothing, that.nothing)
                && Objects.equals(friends, that.friends)
                && Objects.equals(scores, that.scores);
    }

    @Override
    public int hashCode() {
        return Objects.hash(name, age, id);
    }
}
