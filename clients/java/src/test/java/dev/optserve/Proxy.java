package dev.optserve;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;

/** Passes connections on to a server, and fails as a network does. */
final class Proxy implements AutoCloseable {
    private final ServerSocket listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
    private final Set<Socket> open = ConcurrentHashMap.newKeySet();
    private volatile String upstream;
    private volatile CountDownLatch stall = new CountDownLatch(0);
    private volatile long cutAfter = Long.MAX_VALUE;

    Proxy(String upstream) throws IOException {
        this.upstream = upstream;
        begin(() -> {
            while (true) accept(listener.accept());
        });
    }

    String address() {
        return "127.0.0.1:" + listener.getLocalPort();
    }

    /** Passes new connections on to another server. */
    void route(String upstream) {
        this.upstream = upstream;
    }

    /** Breaks all connections, and the next one after some bytes to the server. */
    void cut(long nextAfter) throws IOException {
        cutAfter = nextAfter;
        for (Socket socket : open) socket.close();
        open.clear();
    }

    /** Holds answers until they flow again. */
    void stall() {
        stall = new CountDownLatch(1);
    }

    void flow() {
        stall.countDown();
    }

    @Override
    public void close() throws IOException {
        listener.close();
        flow();
        cut(Long.MAX_VALUE);
    }

    private void accept(Socket client) throws IOException {
        long limit = cutAfter;
        cutAfter = Long.MAX_VALUE;
        int colon = upstream.lastIndexOf(':');
        Socket server;
        try {
            server = new Socket(upstream.substring(0, colon), Integer.parseInt(upstream.substring(colon + 1)));
        } catch (IOException refused) {
            client.close();
            return;
        }
        for (Socket socket : new Socket[] {client, server}) {
            socket.setTcpNoDelay(true);
            open.add(socket);
        }
        begin(() -> pass(client, server, limit, false));
        begin(() -> pass(server, client, Long.MAX_VALUE, true));
    }

    private void pass(Socket from, Socket to, long limit, boolean isAnswer) throws Exception {
        byte[] buffer = new byte[1 << 16];
        try (from;
                to) {
            InputStream source = from.getInputStream();
            OutputStream target = to.getOutputStream();
            for (long left = limit; left > 0; ) {
                int count = source.read(buffer, 0, (int) Math.min(buffer.length, left));
                if (count < 0) break;
                if (isAnswer) stall.await();
                target.write(buffer, 0, count);
                left -= count;
            }
        }
    }

    private interface Task {
        void run() throws Exception;
    }

    private static void begin(Task task) {
        Thread thread = new Thread(() -> {
            try {
                task.run();
            } catch (Exception ended) {
                // A connection was closed, which is what the proxy is for.
            }
        });
        thread.setDaemon(true);
        thread.start();
    }
}
