/** Measures steps, and exchanges of the same bytes by gRPC alone. */

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";
import { type TimeCall, Way } from "../src/gen/optserve/conformance/v1/driver_pb.js";
import {
  type ExchangeRequest,
  ExchangeRequestSchema,
  type ExchangeResponse,
  ExchangeResponseSchema,
} from "../src/gen/optserve/conformance/v1/echo_service_pb.js";
import { connect, optimizers, tensor } from "../src/index.js";
import type { Outcome } from "./values.js";

type Once = () => Promise<unknown>;

const PATH = "/optserve.conformance.v1.EchoService/Exchange";
const OPTIONS = { "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 };

const made = new Map<string, Once>();

/** Measures one way; what was made for it is used again by later calls. */
export async function time(call: TimeCall): Promise<Outcome> {
  const { target, way, elements, chunkBytes, repeats } = call;
  const key = [target, way, elements, chunkBytes].join(" ");
  let once = made.get(key);
  if (once === undefined) {
    const make = WAYS[way];
    if (make === undefined) return { case: "unsupported", value: `the way ${Way[way]}` };
    once = await make(call);
    await once(); // connects, and has the server prepare its kernels
    made.set(key, once);
  }
  const begun = performance.now();
  for (let i = 0; i < repeats; i++) await once();
  const seconds = (performance.now() - begun) / 1000;
  return { case: "time", value: { seconds, peakBytes: BigInt(1024 * process.resourceUsage().maxRSS) } };
}

/** Steps of a new session. */
async function steps({ target, way, elements }: TimeCall): Promise<Once> {
  const client = connect(target, { dataConnections: way === Way.DATA_CONNECTION });
  const w = new Float32Array(Number(elements));
  const gradients = { w: new Float32Array(w.length) };
  const spec = { optimizer: optimizers.adam({ learningRate: 0.001 }) };
  const session = await client.createSession({ w: tensor([w.length], w) }, spec);
  const into = { w };
  if (way === Way.HANDLE) return () => session.step(gradients, { pull: true, into });
  const stream = session.stream({ pull: true, window: 1 });
  return () => stream.step(gradients, { into });
}

/** Exchanges of as many bytes as a step has. */
async function exchanges({ target, elements, chunkBytes }: TimeCall): Promise<Once> {
  const byteCount = 4 * Number(elements);
  const chunk = Number(chunkBytes);
  const sent = new Uint8Array(byteCount);
  const received = new Uint8Array(byteCount);
  const client = new grpc.Client(target, grpc.credentials.createInsecure(), OPTIONS);
  const call = client.makeBidiStreamRequest<ExchangeRequest, ExchangeResponse>(
    PATH,
    (message) => Buffer.from(toBinary(ExchangeRequestSchema, message)),
    (bytes) => fromBinary(ExchangeResponseSchema, bytes),
  );
  const write = (message: ExchangeRequest) => new Promise<void>((done) => call.write(message, () => done()));
  let filled = 0;
  let whole = () => {};
  call.on("data", ({ data }: ExchangeResponse) => {
    received.set(data, filled);
    filled += data.length;
    if (filled === byteCount) whole();
  });
  await write(create(ExchangeRequestSchema, { byteCount: BigInt(byteCount) }));
  return async () => {
    filled = 0;
    const answered = new Promise<void>((resolve, reject) => {
      whole = resolve;
      call.once("error", reject);
    });
    for (let at = 0; at < byteCount; at += chunk) {
      await write(create(ExchangeRequestSchema, { data: sent.subarray(at, at + chunk) }));
    }
    await answered;
    call.removeAllListeners("error");
  };
}

const WAYS: Partial<Record<Way, (call: TimeCall) => Promise<Once>>> = {
  [Way.STREAM]: steps,
  [Way.DATA_CONNECTION]: steps,
  [Way.HANDLE]: steps,
  [Way.ECHO]: exchanges,
};
