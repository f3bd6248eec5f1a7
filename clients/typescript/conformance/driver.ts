/**
 * The TypeScript client's conformance driver; see proto/optserve/conformance/v1/driver.proto.
 *
 * `node build/conformance/driver.js HOST:PORT` answers on standard output.
 */

import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import {
  type ActivationCall,
  type ComplexityCall,
  type DriverRequest,
  DriverRequestSchema,
  DriverResponseSchema,
  type LossCall,
  type MetricsCall,
  type ScheduleCall,
  type TensorsSchema,
  type TrainCall,
} from "../src/gen/optserve/conformance/v1/driver_pb.js";
import {
  type Arrays,
  type Client,
  connect,
  type FloatArray,
  type Gradients,
  type InitialValue,
  initialized,
  OptserveError,
  type SessionHandle,
  type SparseRows,
  type StepResult,
  type Tensor,
  type TensorData,
  tensor,
} from "../src/index.js";
import { DataType, type ParameterInit, type ParameterPoint, type Tensor as TensorMessage } from "../src/v1.js";

type Outcome = NonNullable<MessageInitShape<typeof DriverResponseSchema>["outcome"]>;
type Tensors = MessageInitShape<typeof TensorsSchema>;
type TensorInit = { dtype: DataType; shape: bigint[]; data: Uint8Array };

const PREFIX_BYTES = 4;

async function* requests(): AsyncGenerator<DriverRequest> {
  let received = Buffer.alloc(0);
  for await (const bytes of process.stdin) {
    received = Buffer.concat([received, bytes as Buffer]);
    while (received.length >= PREFIX_BYTES) {
      const end = PREFIX_BYTES + received.readUInt32BE(0);
      if (received.length < end) break;
      yield fromBinary(DriverRequestSchema, received.subarray(PREFIX_BYTES, end));
      received = received.subarray(end);
    }
  }
}

async function answer(client: Client, { call }: DriverRequest): Promise<Outcome> {
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
      default:
        return { case: "unsupported", value: "a call that is newer than this driver" };
    }
  } catch (error) {
    if (error instanceof OptserveError && error.reason !== undefined) {
      return { case: "refusal", value: { reason: error.reason, field: error.field ?? "" } };
    }
    return { case: "failure", value: String(error) };
  }
}

async function train(client: Client, call: TrainCall): Promise<Outcome> {
  const parameters = Object.fromEntries(call.parameters.map((init) => [init.name, initialValue(init)]));
  const session = await client.createSession(parameters, required(call.spec), { seed: call.seed });
  try {
    const shapes = new Map(session.info.layout.map(({ name, shape }) => [name, shape]));
    const named = (arrays: Arrays): Tensors => ({
      tensors: Object.entries(arrays).map(([name, data]) => ({
        name,
        tensor: tensorInit({ shape: shapes.get(name) ?? [], data }),
      })),
    });
    const pulled = async (point: ParameterPoint) => named((await session.pull({ point })).arrays);
    const initial = named((await session.pull()).arrays);
    const found = { parameters: [] as Tensors[], before: [] as Tensors[], after: [] as Tensors[] };
    for await (const { parameters } of results(session, call, async () => {
      if (call.before) found.before.push(await pulled(call.before));
    })) {
      found.parameters.push(named(parameters));
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
  const gradients: Record<string, Tensor<FloatArray> | SparseRows> = {};
  for (const { name, tensor } of call.gradients[step]?.tensors ?? []) gradients[name] = given(tensor);
  for (const { name, indices, values } of call.sparseGradients[step]?.tensors ?? []) {
    gradients[name] = { indices: given<BigInt64Array>(indices).data, values: given(values).data };
  }
  return gradients;
}

function initialValue({ source }: ParameterInit): InitialValue {
  if (source.case === "value") return given(source.value);
  const { dtype, shape, spec } = required(source.case === "initializer" ? source.value : undefined);
  return initialized(shape.map(Number), required(spec), dtype === DataType.FLOAT32 ? "float32" : "float64");
}

async function schedule(client: Client, call: ScheduleCall): Promise<Outcome> {
  const data = await client.evaluateSchedule(required(call.schedule), call.steps.map(Number));
  return { case: "schedule", value: { values: tensorInit({ shape: [data.length], data }) } };
}

async function loss(client: Client, call: LossCall): Promise<Outcome> {
  const { value, gradient, perExample } = await client.loss(
    required(call.loss),
    given(call.prediction),
    given<TensorData>(call.target),
    { perExample: true, sampleWeight: call.sampleWeight && given(call.sampleWeight) },
  );
  const tensors = { gradient: tensorInit(required(gradient)), perExample: tensorInit(required(perExample)) };
  return { case: "loss", value: { ...tensors, ...(value !== undefined && { value }) } };
}

async function activation(client: Client, call: ActivationCall): Promise<Outcome> {
  const [spec, input] = [required(call.activation), given(call.input)];
  const slope = call.slope && given(call.slope);
  const output = await client.activation(spec, input, { slope });
  const gradient = await client.activationGradient(spec, input, given(call.outputGradient), { slope });
  return {
    case: "activation",
    value: {
      output: tensorInit(output),
      inputGradient: tensorInit(gradient.input),
      ...(gradient.slope && { slopeGradient: tensorInit(gradient.slope) }),
    },
  };
}

async function complexity(client: Client, call: ComplexityCall): Promise<Outcome> {
  const { layers } = await client.estimateComplexity(required(call.network));
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
      const report = await session.reportMetrics({ [call.metric]: value });
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

const ARRAYS = {
  [DataType.FLOAT32]: Float32Array,
  [DataType.FLOAT64]: Float64Array,
  [DataType.INT32]: Int32Array,
  [DataType.INT64]: BigInt64Array,
};

function given<T extends TensorData = FloatArray>(message: TensorMessage | undefined): Tensor<T> {
  const { dtype, shape, data } = required(message);
  const { buffer } = new Uint8Array(data); // aligned
  return tensor<T>(shape.map(Number), new ARRAYS[dtype as keyof typeof ARRAYS](buffer) as TensorData as T);
}

function tensorInit({ shape, data }: Tensor): TensorInit {
  const dtype = data instanceof Float32Array ? DataType.FLOAT32 : DataType.FLOAT64;
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return { dtype, shape: shape.map(BigInt), data: bytes };
}

function bigints<T extends object>(counts: T): Record<keyof T, bigint> {
  return Object.fromEntries(Object.entries(counts).map(([name, count]) => [name, BigInt(count)])) as never;
}

function required<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("the request lacks a field");
  return value;
}

const client = connect(process.argv.at(-1));
for await (const request of requests()) {
  const message = create(DriverResponseSchema, { outcome: await answer(client, request) });
  const body = toBinary(DriverResponseSchema, message);
  const prefix = Buffer.alloc(PREFIX_BYTES);
  prefix.writeUInt32BE(body.length);
  process.stdout.write(Buffer.concat([prefix, body]));
}
client.close();
