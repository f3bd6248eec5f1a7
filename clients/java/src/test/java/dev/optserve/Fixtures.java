package dev.optserve;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import dev.optserve.OptserveException.Applied;
import dev.optserve.v1.*;
import java.io.IOException;
import java.util.Map;
import org.junit.jupiter.api.function.Executable;

/** What several tests need. */
final class Fixtures {
    private Fixtures() {}

    static SessionSpec sgd(double rate) {
        return SessionSpec.newBuilder()
                .setOptimizer(
                        OptimizerSpec.newBuilder().setSgd(SgdSpec.newBuilder().setLearningRate(rate)))
                .build();
    }

    static SessionSpec adam() {
        return SessionSpec.newBuilder()
                .setOptimizer(
                        OptimizerSpec.newBuilder().setAdam(AdamSpec.newBuilder().setLearningRate(0.01)))
                .build();
    }

    static Client connect() throws IOException {
        return Client.connect(TestServer.shared().address());
    }

    /** Creates a session with one parameter w. */
    static TrainingSession session(Client client, SessionSpec spec, float... w) {
        return client.createSession(spec, Map.of("w", NdArray.of(w)));
    }

    static Session describe(TrainingSession session) {
        return session.call(SessionServiceGrpc.getGetSessionMethod(), GetSessionRequest.getDefaultInstance())
                .getSession();
    }

    static GetCapabilitiesResponse capabilities(Client client) {
        return client.call(
                CapabilitiesServiceGrpc.getGetCapabilitiesMethod(), GetCapabilitiesRequest.getDefaultInstance());
    }

    static Step step(float... gradient) {
        return new Step().gradient("w", gradient);
    }

    /** Checks the reason of an error that changed nothing. */
    static OptserveException assertReason(String reason, Executable call) {
        OptserveException error = assertThrows(OptserveException.class, call);
        assertEquals(ErrorReason.valueOf("ERROR_REASON_" + reason), error.reason(), error.toString());
        assertEquals(Applied.NO, error.applied());
        return error;
    }
}
