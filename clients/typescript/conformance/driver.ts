/**
 * The TypeScript client's conformance driver; see proto/optserve/conformance/v1/driver.proto.
 *
 * `node build/conformance/driver.js HOST:PORT` answers on standard output.
 */

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  type ActivationCall,
  type ComplexityCall,
  type DriverRequest,
  DriverRequestSchema,
  DriverResponseSchema,
  type LossCall,
  type MetricsCall,
  type ScheduleCall,
  type TrainCall,
} from "../src/gen/optserve/conformance/v1/driver_pb.js";
import {
  type Client,
  connect,
  type FloatArray,
  type Gradients,
  OptserveError,
  type SessionHandle,
  type SparseRows,
  type StepResult,
  type Tensor,
  tensorOf,
} from "../src/index.js";
import type { ParameterPoint } from "../src/v1.js";
import { time } from "./timing.js";
import { given, givenByName, initialValue, named, type Outcome, required, type Tensors, tensorInit } from "./values.js";
import { refusalOf, Worker } from "./worker.js";

const PREFIX_BYTES = 4;

async function* requests(): AsyncGenerator<DriverRequest> {
  let pieces: Buffer[] = [];
  let length = 0;
  let needed = PREFIX_BYTES;
  for await (const bytes of process.stdin) {
    pieces.push(bytes as Buffer);
    length += bytes.length;
    while (length >= needed) {
      const received = Buffer.concat(pieces);
      needed = PREFIX_BYTES + received.readUInt32BE(0);
      pieces = [received];
      if (length < needed) break;
      yield fromBinary(DriverRequestSchema, received.subarray(PREFIX_BYTES, needed));
      pieces = [received.subarray(needed)];
      length -= needed;
      needed = PREFIX_BYTES;
    }
  }
}

/** Calls whose errors are refusals even if they have no reason. */
const OF_TRANSCRIPT = new Set<string | undefined>(["connect", "open", "join", "steps", "read", "leave"]);

async function answer(client: Client, worker: Worker, { call }: DriverRequest): Promise<Outcome> {
  try {
    switch (call.case) {
      case "train":
        return await train(client, call.value);
      case "schedule":
        return await schedule(client, call.value);
      case "loss":
        return await loss(client, call.value);
      case "activation":
        return await activation(client, call.value);
      case "complexity":
        return await complexity(client, call.value);
      case "metrics":
        return await metrics(client, call.value);
      case "connect":
        return worker.connect(call.value);
      case "open":
        return await worker.open(call.value);
      case "join":
        return await worker.join(call.value);
      case "steps":
        return await worker.steps(call.value);
      case "read":
        return await worker.read(call.value);
      case "leave":
        return await worker.leave();
      case "time":
        return await time(call.value);
      default:
        return { case: "unsupported", value: "a call that is newer than this driver" };
    }
  } catch (error) {
    if (error instanceof OptserveError && (error.reason !== undefined || OF_TRANSCRIPT.has(call.case))) {
      return { case: "refusal", value: refusalOf(error) };
    }
    return { case: "failure", value: String(error) };
  }
}

async function train(client: Client, call: TrainCall): Promise<Outcome> {
  const parameters = Object.fromEntries(call.parameters.map((init) => [init.name, initialValue(init)]));
  const session = await client.createSession(parameters, required(call.spec), { seed: call.seed });
  try {
    const pulled = async (point: ParameterPoint) => named(session, (await session.pull({ point })).arrays);
    const initial = named(session, (await session.pull()).arrays);
    const found = { parameters: [] as Tensors[], before: [] as Tensors[], after: [] as Tensors[] };
    for await (const { parameters } of results(session, call, async () => {
      if (call.before) found.before.push(await pulled(call.before));
    })) {
      found.parameters.push(named(session, parameters));
      if (call.after) found.after.push(await pulled(call.after));
    }
    return { case: "train", value: { initial, ...found } };
  } finally {
    await session.delete();
  }
}

/** Takes the steps; several are in flight at once if nothing is read between them. */
async function* results(
  session: SessionHandle,
  call: TrainCall,
  before: () => Promise<void>,
): AsyncGenerator<StepResult> {
  const count = Math.max(call.gradients.length, call.sparseGradients.length);
  const gradients = Array.from({ length: count }, (_, i) => gradientsOf(call, i));
  const stream = call.stream ? session.stream({ pull: true }) : undefined;
  if (stream && !(call.before || call.after || call.overrides.length)) {
    yield* stream.steps(gradients);
  } else {
    for (const [i, gradient] of gradients.entries()) {
      await before();
      const overrides = call.overrides[i]?.overrides;
      const step = stream ? stream.step(gradient, { overrides }) : session.step(gradient, { overrides, pull: true });
      yield await step;
    }
  }
  await stream?.close();
}

function gradientsOf(call: TrainCall, step: number): Gradients {
  const gradients: Record<string, Tensor<FloatArray> | SparseRows> = givenByName(call.gradients[step]);
  for (const { name, indices, values } of call.sparseGradients[step]?.tensors ?? []) {
    gradients[name] = { indices: given<BigInt64Array>(indices).data, values: given(values).data };
  }
  return gradients;
}

async function schedule(client: Client, { schedule, steps }: ScheduleCall): Promise<Outcome> {
  const request = { schedule: required(schedule), at: { case: "steps" as const, value: { steps } } };
  const { values } = await client.functions.evaluateSchedule(request);
  return { case: "schedule", value: { values: tensorInit(tensorOf(required(values))) } };
}

async function loss(client: Client, call: LossCall): Promise<Outcome> {
  const { $typeName: _, ...given } = call;
  const { value, gradient, perExample } = await client.functions.computeLoss({
    ...given,
    gradient: true,
    perExample: true,
  });
  const [slope, losses] = [tensorOf(required(gradient)), tensorOf(required(perExample))];
  const tensors = { gradient: tensorInit(slope), perExample: tensorInit(losses) };
  return { case: "loss", value: { ...tensors, ...(value !== undefined && { value }) } };
}

async function activation(client: Client, call: ActivationCall): Promise<Outcome> {
  const { activation, input, slope, outputGradient } = call;
  const { output } = await client.functions.computeActivation({ activation, input, slope });
  const gradient = await client.functions.computeActivationGradient({ activation, input, slope, outputGradient });
  return {
    case: "activation",
    value: {
      output: tensorInit(tensorOf(required(output))),
      inputGradient: tensorInit(tensorOf(required(gradient.inputGradient))),
      ...(gradient.slopeGradient && { slopeGradient: tensorInit(tensorOf(gradient.slopeGradient)) }),
    },
  };
}

async function complexity(client: Client, call: ComplexityCall): Promise<Outcome> {
  const { layers } = await client.functions.estimateComplexity({ network: required(call.network) });
  const value = layers.map(({ name, outputShape, complexity }) => ({
    name,
    outputShape: outputShape.map(BigInt),
    complexity: bigints(required(complexity)),
  }));
  return { case: "complexity", value: { layers: value } };
}

async function metrics(client: Client, call: MetricsCall): Promise<Outcome> {
  const { name, tensor: initial } = required(call.parameter);
  const gradient = { [required(call.gradient).name]: given(call.gradient?.tensor) };
  const session = await client.createSession({ [name]: given(initial) }, required(call.spec));
  try {
    const reports = [];
    for (const value of call.values) {
      let step = call.reportFirst ? undefined : await session.step(gradient);
      const metrics = [{ name: call.metric, value }];
      const report = await client.sessions.reportMetrics({ name: session.name, metrics });
      if (!report.stopped) step ??= await session.step(gradient);
      const { reduceOnPlateau: plateau, earlyStopping: stopping, stopped } = report;
      reports.push({
        learningRate: step?.learningRate ?? 0,
        ...(plateau && { reduceOnPlateau: { ...plateau, bestStep: BigInt(plateau.bestStep) } }),
        ...(stopping && { earlyStopping: { ...stopping, bestStep: BigInt(stopping.bestStep) } }),
        stopped,
      });
      if (stopped) break;
    }
    const data = required((await session.pull()).arrays[name]);
    const parameter = { name, tensor: tensorInit({ shape: given(initial).shape, data }) };
    return { case: "metrics", value: { reports, parameter } };
  } finally {
    await session.delete();
  }
}

function bigints<T extends object>(counts: T): Record<keyof T, bigint> {
  return Object.fromEntries(Object.entries(counts).map(([name, count]) => [name, BigInt(count)])) as never;
}

const client = connect(process.argv.at(-1));
const worker = new Worker();
for await (const request of requests()) {
  const message = create(DriverResponseSchema, { outcome: await answer(client, worker, request) });
  const body = toBinary(DriverResponseSchema, message);
  const prefix = Buffer.alloc(PREFIX_BYTES);
  prefix.writeUInt32BE(body.length);
  process.stdout.write(Buffer.concat([prefix, body]));
}
worker.close();
client.close();
process.exit(); // calls that were measured keep their connections
