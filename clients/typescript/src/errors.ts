/** Errors by status and reason, decoded once. */

import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack, durationMs } from "@bufbuild/protobuf/wkt";
import type { ServiceError } from "@grpc/grpc-js";
import { Code } from "./gen/google/rpc/code_pb.js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";
import * as v1 from "./v1.js";

const DOMAIN = "optserve.v1";

/** Whether a call that failed may have changed anything. */
export type Applied = "no" | "unknown";

/** What is known of an error beside its message and status. */
export type ErrorDetails = Partial<
  Pick<OptserveError, "reason" | "field" | "metadata" | "retryAfterMs" | "requestId" | "applied" | "cause">
>;

/** A call that failed. Act on `reason` and `code`, never on the text. */
export class OptserveError extends Error {
  override readonly name = "OptserveError";
  /** The contract's reason; undefined if the error is not the server's, or newer than this client. */
  readonly reason: v1.ErrorReason | undefined;
  /** Path of the wrong field within the request. */
  readonly field: string | undefined;
  /** Facts about the error, such as the `expected` sequence. */
  readonly metadata: Readonly<Record<string, string>> = {};
  /** Milliseconds after which a repeat may succeed. */
  readonly retryAfterMs: number | undefined;
  /** The call's id in the server's log. */
  readonly requestId: string | undefined;
  /** `"no"` if the call changed nothing. `"unknown"` if it may have: making the same call again settles it. */
  readonly applied: Applied = "unknown";

  /**
   * @param message - what was wrong.
   * @param code - the gRPC status.
   * @param details - what else is known.
   */
  constructor(
    message: string,
    readonly code: Code,
    details: ErrorDetails = {},
  ) {
    super(message);
    Object.assign(this, details);
  }
}

/** Statuses of a call whose answer was lost, unless the server has sent them itself. */
const LOST = new Set([Code.CANCELLED, Code.DEADLINE_EXCEEDED]);

/** Whether the same call may succeed later. */
export function isRetryable(error: OptserveError): boolean {
  const isLost = error.reason === undefined && LOST.has(error.code);
  return isLost || error.code === Code.UNAVAILABLE || error.retryAfterMs !== undefined;
}

/** The typed error of a call that failed. */
export function errorFrom(failure: unknown): OptserveError {
  if (failure instanceof OptserveError) return failure;
  const { code, details, metadata, message } = failure as Partial<ServiceError>;
  if (code === undefined) return new OptserveError(message ?? String(failure), Code.UNKNOWN, { cause: failure });
  const requestId = metadata?.get("x-request-id")[0]?.toString();
  return new OptserveError(details || (message ?? ""), code as number, {
    requestId,
    ...detailsOf(metadata?.get("grpc-status-details-bin")[0]),
    cause: failure,
  });
}

function detailsOf(packed: string | Buffer | undefined): ErrorDetails {
  const found: { -readonly [K in keyof ErrorDetails]: ErrorDetails[K] } = {};
  if (!(packed instanceof Uint8Array)) return found;
  try {
    for (const detail of fromBinary(StatusSchema, packed).details) {
      const info = anyUnpack(detail, ErrorInfoSchema);
      if (info?.domain === DOMAIN) {
        const { applied, ...metadata } = info.metadata;
        found.reason = v1.ErrorReason[info.reason as keyof typeof v1.ErrorReason];
        found.metadata = metadata;
        found.applied = applied === "no" ? "no" : "unknown";
        if (metadata.request_id !== undefined) found.requestId = metadata.request_id;
      }
      const field = anyUnpack(detail, BadRequestSchema)?.fieldViolations[0]?.field;
      if (field !== undefined) found.field = field;
      const delay = anyUnpack(detail, RetryInfoSchema)?.retryDelay;
      if (delay !== undefined) found.retryAfterMs = durationMs(delay);
    }
  } catch {
    return found; // the details of a proxy; the status is valid
  }
  return found;
}

/** The error of an argument that cannot be sent. */
export function invalid(message: string, reason: v1.ErrorReason, field: string): OptserveError {
  return new OptserveError(message, Code.INVALID_ARGUMENT, { reason, field, applied: "no" });
}

export { Code };
