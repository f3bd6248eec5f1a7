/** The calls of the contract's services, with plain objects for messages. */

import type * as pb from "@bufbuild/protobuf";
import type { Connection } from "./connection.js";
import type { CallOptions } from "./deadline.js";
import { errorFrom } from "./errors.js";
import { type Init, toValue, type Value } from "./values.js";

/**
 * The calls of a service that have one request. Those with one answer are repeated until their deadline, and
 * changes get a request id; those with many answers yield them until the loop is left or `signal` cancels.
 * All throw an `OptserveError`.
 */
export type Calls<S extends pb.DescService> = {
  readonly [K in keyof S["method"] as S["method"][K] extends { methodKind: "unary" | "server_streaming" }
    ? K
    : never]: S["method"][K] extends pb.DescMethodUnary<infer I, infer O>
    ? (request: Init<pb.MessageShape<I>>, options?: CallOptions) => Promise<Value<pb.MessageShape<O>>>
    : S["method"][K] extends pb.DescMethodServerStreaming<infer I, infer O>
      ? (request: Init<pb.MessageShape<I>>, options?: CallOptions) => AsyncGenerator<Value<pb.MessageShape<O>>>
      : never;
};

/** The calls of a service over a connection. */
export function callsOf<S extends pb.DescService>(connection: Connection, service: S): Calls<S> {
  async function* answers(method: pb.DescMethodServerStreaming, request: object, options?: CallOptions) {
    try {
      for await (const answer of connection.serverStream(method, request, options?.signal)) yield toValue(answer);
    } catch (failure) {
      throw errorFrom(failure);
    }
  }
  const made: Record<string, unknown> = {};
  for (const [name, method] of Object.entries(service.method)) {
    if (method.methodKind === "unary") {
      made[name] = async (request: object, options?: CallOptions) =>
        toValue(await connection.call(method as pb.DescMethodUnary, request, options));
    } else if (method.methodKind === "server_streaming") {
      made[name] = (request: object, options?: CallOptions) =>
        answers(method as pb.DescMethodServerStreaming, request, options);
    }
  }
  return made as Calls<S>;
}
