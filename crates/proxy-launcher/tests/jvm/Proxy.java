import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * What a proxy made of jars shows to the launcher: ports for calls and for health, its answer to TERM, exit
 * codes, and a heap that a request can fill. Stands where real jars would be.
 */
public final class Proxy {
    private static final List<byte[]> HEAP = new ArrayList<>();
    private static final AtomicInteger UNDER_WAY = new AtomicInteger();

    public static void main(String[] args) throws IOException {
        HttpServer health = listen("MANAGEMENT_PORT");
        health.createContext("/ready", exchange -> answer(exchange, "OK"));
        health.createContext("/alive", exchange -> answer(exchange, "OK"));
        health.createContext("/under-way", exchange -> answer(exchange, "" + UNDER_WAY.get()));

        HttpServer calls = listen("HTTP_PORT");
        calls.createContext("/heap", exchange -> answer(exchange, "" + Runtime.getRuntime().maxMemory()));
        calls.createContext("/sleep", exchange -> {
            UNDER_WAY.incrementAndGet();
            pause(number(exchange));
            answer(exchange, "slept");
            UNDER_WAY.decrementAndGet();
        });
        calls.createContext("/allocate", exchange -> {
            for (long mib = 0; mib < number(exchange); mib++) {
                HEAP.add(new byte[1 << 20]);
            }
            answer(exchange, "allocated");
        });
        // Without the hook below, which would wait for this very call.
        calls.createContext("/exit", exchange -> Runtime.getRuntime().halt((int) number(exchange)));

        // TERM runs this: calls under way finish.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            while (UNDER_WAY.get() > 0) {
                pause(10);
            }
        }));
        health.start();
        calls.start();
        System.out.println("serving");
    }

    private static HttpServer listen(String variable) throws IOException {
        int port = Integer.parseInt(System.getenv(variable));
        HttpServer server = HttpServer.create(new InetSocketAddress(port), 0);
        server.setExecutor(Executors.newCachedThreadPool());
        return server;
    }

    /** The number behind the question mark. */
    private static long number(HttpExchange exchange) {
        return Long.parseLong(exchange.getRequestURI().getQuery());
    }

    private static void pause(long millis) {
        try {
            Thread.sleep(millis);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    private static void answer(HttpExchange exchange, String text) throws IOException {
        byte[] body = text.getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(200, body.length);
        exchange.getResponseBody().write(body);
        exchange.close();
    }
}
