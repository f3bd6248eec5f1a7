package dev.optserve;

import dev.optserve.v1.*;
import io.grpc.Deadline;
import java.util.*;
import java.util.concurrent.CompletableFuture;

/** A step that was handed over. The engine owns it, and completes its future. */
final class PendingStep {
    /** What steps of a stream have in common; answer is null until the server has sent it. */
    static final class Plan {
        final StepPlan message;
        StepPlanned answer;

        Plan(StepPlan message) {
            this.message = message;
        }
    }

    final CompletableFuture<StepAnswer> future = new CompletableFuture<>();
    final StepStream stream;
    final Deadline deadline;
    final StepPlan planMessage;
    final Map<String, NdArray> into;
    Plan plan;
    long sequence; // 0 until it is sent, and for a validation
    boolean isSent;
    private final StepStart.Builder start;
    private final Map<String, NdArray> gradients;
    private final List<Payload.Part> rows = new ArrayList<>();

    /** Takes what a step of a stream, or of none, holds; throws an {@link OptserveException} if it cannot be sent. */
    PendingStep(Step step, StepStream stream, TrainingSession session) {
        this.stream = stream;
        Layout layout = session.layout;
        deadline = session.connection.deadline(step.timeout, 2 * layout.byteCount());
        gradients = Map.copyOf(step.gradients);
        into = Map.copyOf(step.into);
        start = step.options.toBuilder().clearRowIndices();
        layout.check("gradients", gradients);
        layout.check("into", into);
        if (gradients.isEmpty() && step.rows.isEmpty()) {
            throw OptserveException.invalid(ErrorReason.ERROR_REASON_FIELD_REQUIRED, "gradients", "there is none");
        }
        long epoch = session.epoch;
        if (epoch > 0 && !start.hasParametersStep()) start.setParametersStep(session.parametersStep);
        StepPlan.Builder plan = StepPlan.newBuilder().setSession(session.name());
        if (!isValidation()) plan.setWorker(session.worker()).setWorkerEpoch(epoch); // a validation has no sequence
        plan.addAllTensors(layout.names(gradients));
        step.rows.forEach((name, some) -> {
            TensorLayout tensor = layout.find("rows", name);
            List<Long> shape = new ArrayList<>(tensor.getShapeList());
            if (shape.isEmpty()) {
                ErrorReason reason = ErrorReason.ERROR_REASON_SHAPE_MISMATCH;
                throw OptserveException.invalid(reason, "rows." + name, "a scalar has no rows");
            }
            shape.set(0, (long) some.indices().size());
            some.values().check("rows." + name, shape, tensor.getDtype());
            plan.addSparseTensors(name);
            start.addRowIndices(some.indices().toTensor());
            DataType wire = step.wireType == DataType.DATA_TYPE_UNSPECIFIED ? tensor.getDtype() : step.wireType;
            rows.add(new Payload.Part(some.values(), wire));
        });
        if (step.pull != null) {
            plan.setPull(step.pull);
            future.thenAccept(it -> session.parametersStep = it.parameters().step());
        }
        plan.setGradientDtype(step.wireType).setPerTensorNorms(step.hasTensorNorms);
        planMessage = plan.build();
    }

    boolean isValidation() {
        return start.getValidateOnly();
    }

    /** Returns the gradient's bytes, as the answer to the plan lays them out. */
    Payload payload() {
        List<Payload.Part> parts = new ArrayList<>();
        for (TensorLayout tensor : plan.answer.getGradients().getTensorsList()) {
            parts.add(new Payload.Part(gradients.get(tensor.getName()), tensor.getDtype()));
        }
        parts.addAll(rows); // behind the whole tensors, in the order of the plan
        return new Payload(parts);
    }

    /** Returns the message that begins the step. */
    StepStreamRequest begin(long byteCount) {
        start.setSequence(sequence).setByteCount(byteCount);
        return StepStreamRequest.newBuilder().setStep(start).build();
    }
}
