import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** Java's HttpClient against the service that BASE leads to, through PROXY if that is set: Client HTTP_1_1|HTTP_2. */
final class Client {
    private static final int REQUESTS_IN_A_ROW = 200;
    private static final int PARALLEL = 32;
    private static final int ROUNDS = 10;
    private static final int LEAVERS = 20;
    private static final int CONNECTIONS_MAX = 5;
    private static final Duration TIMEOUT = Duration.ofSeconds(60);

    private final String base = System.getenv("BASE");
    private final boolean shm = System.getenv("WAY").equals("shm");
    private final HttpClient client;

    private Client(HttpClient.Version version) {
        HttpClient.Builder builder = HttpClient.newBuilder().version(version).connectTimeout(TIMEOUT);
        String proxy = System.getenv("PROXY");
        if (!proxy.isEmpty()) {
            URI uri = URI.create(proxy);
            builder.proxy(ProxySelector.of(new InetSocketAddress(uri.getHost(), uri.getPort())));
        }
        client = builder.build();
    }

    public static void main(String[] arguments) throws Exception {
        Client client = new Client(HttpClient.Version.valueOf(arguments[0]));
        client.bodies();
        client.parallel();
        if (!client.shm) {
            client.answers();
            client.inARow();
            client.leavers();
        }
        System.exit(0);
    }

    private static void check(String name, boolean holds, Object instead) {
        if (!holds) {
            System.out.println("FAILED: " + name + ": " + instead);
            System.exit(1);
        }
        System.out.println("ok " + name);
    }

    private static void same(String name, byte[] wanted, HttpResponse<byte[]> answer) {
        boolean same = answer.statusCode() == 200 && Arrays.equals(wanted, answer.body());
        check(name, same, answer.statusCode() + " with " + answer.body().length + " bytes, or others");
    }

    private HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(base + path)).timeout(TIMEOUT);
    }

    private HttpResponse<byte[]> send(HttpRequest.Builder request) throws Exception {
        return client.send(request.build(), BodyHandlers.ofByteArray());
    }

    /** Without a length, so that it is sent in chunks. */
    private static BodyPublisher chunked(byte[] content) {
        return BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(content));
    }

    private void bodies() throws Exception {
        for (int size : Bodies.SIZES) {
            byte[] content = Bodies.body(size);
            same("POST " + size, content, send(request("/echo").POST(BodyPublishers.ofByteArray(content))));
            same("PUT " + size + " in chunks", content, send(request("/echo").PUT(chunked(content))));
            if (shm) {
                continue;
            }
            same("GET " + size, content, send(request("/bytes/" + size)));
            same("GET " + size + " in pieces", content, send(request("/pieces/" + size)));
            HttpResponse<byte[]> head = send(request("/bytes/" + size).method("HEAD", BodyPublishers.noBody()));
            check("HEAD " + size, head.statusCode() == 200 && head.body().length == 0
                    && head.headers().firstValueAsLong("content-length").orElse(-1) == size, head.headers());
            same("GET " + size + " behind HEAD", content, send(request("/bytes/" + size)));
        }
        check("HTTP/1.1 is what is spoken", send(request("/echo").POST(BodyPublishers.noBody())).version()
                == HttpClient.Version.HTTP_1_1, "");
    }

    private void answers() throws Exception {
        for (int status : new int[] {204, 304}) {
            HttpResponse<byte[]> answer = send(request("/status/" + status));
            check("" + status, answer.statusCode() == status && answer.body().length == 0
                    && answer.headers().firstValue("etag").orElse("").equals("\"the-same\""), answer);
        }
        HttpResponse<byte[]> redirect = send(request("/redirect"));
        check("302 as it is", redirect.statusCode() == 302
                && redirect.headers().firstValue("location").orElse("").equals("/bytes/10"), redirect);
        byte[] content = Bodies.body(300_000);
        same("a body that waits for 100", content,
                send(request("/echo").expectContinue(true).POST(BodyPublishers.ofByteArray(content))));
        check("404", send(request("/nowhere")).statusCode() == 404, "");
    }

    private int connections() throws Exception {
        return Integer.parseInt(new String(send(request("/connections")).body()));
    }

    private void inARow() throws Exception {
        int before = connections();
        for (int i = 0; i < REQUESTS_IN_A_ROW; i++) {
            if (!Arrays.equals(Bodies.body(100), send(request("/bytes/100")).body())) {
                check("request " + i + " in a row", false, "");
            }
        }
        int more = connections() - before;
        check("few connections to the service", more <= CONNECTIONS_MAX, more);
    }

    private void parallel() throws Exception {
        for (int round = 0; round < ROUNDS; round++) {
            List<byte[]> contents = new ArrayList<>();
            List<CompletableFuture<HttpResponse<byte[]>>> answers = new ArrayList<>();
            for (int i = 0; i < PARALLEL; i++) {
                byte[] content = Bodies.body(1 + i * 997 + round * 13);
                BodyPublisher publisher = i % 2 == 0 ? BodyPublishers.ofByteArray(content) : chunked(content);
                contents.add(content);
                answers.add(client.sendAsync(request("/echo").POST(publisher).build(), BodyHandlers.ofByteArray()));
            }
            for (int i = 0; i < PARALLEL; i++) {
                if (!Arrays.equals(contents.get(i), answers.get(i).get(TIMEOUT.toSeconds(), TimeUnit.SECONDS).body())) {
                    check("request " + i + " of round " + round, false, "");
                }
            }
        }
        check(ROUNDS + " times " + PARALLEL + " requests at once", true, "");
    }

    /** Callers that go away in the midst of an answer harm nobody else. */
    private void leavers() throws Exception {
        for (int i = 0; i < LEAVERS; i++) {
            HttpResponse<InputStream> answer = client.send(request("/bytes/8388608").build(), BodyHandlers.ofInputStream());
            try (InputStream body = answer.body()) {
                body.readNBytes(1000);
            }
        }
        same("GET after others went away", Bodies.body(1000), send(request("/bytes/1000")));
    }
}
