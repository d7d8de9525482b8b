import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;

/** A service on the JDK's HttpServer: Service PORT. */
final class Service {
    private static final int PIECE_BYTES = 10_000;
    private static final int BACKLOG = 256;

    /** The far end of each connection that was seen. */
    private static final Set<InetSocketAddress> connections = ConcurrentHashMap.newKeySet();

    private Service() {}

    public static void main(String[] arguments) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress("0.0.0.0", Integer.parseInt(arguments[0])), BACKLOG);
        server.createContext("/", Service::answer);
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
    }

    private static void answer(HttpExchange exchange) throws IOException {
        connections.add(exchange.getRemoteAddress());
        try (exchange) {
            byte[] request = exchange.getRequestBody().readAllBytes();
            String[] path = exchange.getRequestURI().getPath().split("/");
            switch (path.length > 1 ? path[1] : "") {
                case "echo" -> whole(exchange, request);
                case "bytes" -> whole(exchange, Bodies.body(Integer.parseInt(path[2])));
                case "pieces" -> pieces(exchange, Bodies.body(Integer.parseInt(path[2])));
                case "status" -> {
                    exchange.getResponseHeaders().set("ETag", "\"the-same\"");
                    exchange.sendResponseHeaders(Integer.parseInt(path[2]), -1);
                }
                case "redirect" -> {
                    exchange.getResponseHeaders().set("Location", "/bytes/10");
                    exchange.sendResponseHeaders(302, -1);
                }
                case "connections" -> whole(exchange, String.valueOf(connections.size()).getBytes());
                default -> exchange.sendResponseHeaders(404, -1);
            }
        }
    }

    private static void whole(HttpExchange exchange, byte[] content) throws IOException {
        if (exchange.getRequestMethod().equals("HEAD")) {
            exchange.getResponseHeaders().set("Content-Length", String.valueOf(content.length));
        }
        // In HttpServer's words 0 is a length that is not known yet, and -1 is none.
        boolean none = content.length == 0 || exchange.getRequestMethod().equals("HEAD");
        exchange.sendResponseHeaders(200, none ? -1 : content.length);
        if (!none) {
            exchange.getResponseBody().write(content);
        }
    }

    private static void pieces(HttpExchange exchange, byte[] content) throws IOException {
        exchange.sendResponseHeaders(200, 0);
        OutputStream out = exchange.getResponseBody();
        for (int start = 0; start < content.length; start += PIECE_BYTES) {
            out.write(content, start, Math.min(PIECE_BYTES, content.length - start));
            out.flush();
        }
        out.close();
    }
}
