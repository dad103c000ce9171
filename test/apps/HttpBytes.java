import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.concurrent.Executors;

/** As http-server-main.ts: answers GET /bytes/<n> with so many bytes, and POST with the SHA-256 of what it got. */
public class HttpBytes {
  public static void main(String[] args) throws IOException {
    HttpServer server = HttpServer.create(new InetSocketAddress("0.0.0.0", Integer.parseInt(args[0])), 128);
    server.setExecutor(Executors.newFixedThreadPool(8));
    server.createContext("/", HttpBytes::answer);
    server.start();
  }

  private static void answer(HttpExchange exchange) throws IOException {
    try (exchange) {
      byte[] got = exchange.getRequestBody().readAllBytes();
      byte[] reply = exchange.getRequestMethod().equals("POST") ? hash(got) : bytes(exchange.getRequestURI().getPath());
      exchange.getResponseHeaders().set("X-Number", exchange.getRequestURI().getQuery());
      exchange.sendResponseHeaders(200, reply.length);
      exchange.getResponseBody().write(reply);
    }
  }

  private static byte[] bytes(String path) {
    byte[] pattern = (path + "\n").getBytes(StandardCharsets.US_ASCII);
    byte[] content = new byte[Integer.parseInt(path.split("/")[2])];
    for (int at = 0; at < content.length; at++) content[at] = pattern[at % pattern.length];
    return content;
  }

  private static byte[] hash(byte[] content) {
    try {
      byte[] digest = MessageDigest.getInstance("SHA-256").digest(content);
      return HexFormat.of().formatHex(digest).getBytes(StandardCharsets.US_ASCII);
    } catch (java.security.NoSuchAlgorithmException error) {
      throw new IllegalStateException(error);
    }
  }
}
