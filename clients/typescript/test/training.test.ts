import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import {
  activations,
  type Client,
  connect,
  ErrorReason,
  exportSession,
  importSession,
  initialized,
  initializers,
  layers,
  losses,
  OptserveError,
  optimizers,
  schedules,
  tensor,
  tensorMessage,
  tensorOf,
  upload,
} from "../src/index.js";
import { DurabilityMode, ParameterPoint, StepOutcome } from "../src/v1.js";
import { TestServer } from "./server.js";

const SGD = { optimizer: optimizers.sgd({ learningRate: 0.5 }) };
let server: TestServer;
let client: Client;

before(async () => {
  server = await TestServer.start();
  client = connect(server.address);
});

after(async () => {
  client.close();
  await server[Symbol.asyncDispose]();
});

async function walk(values = [1, 2]) {
  return client.createSession({ w: tensor([values.length], values) }, SGD);
}

function rejectsWith(reason: ErrorReason, call: Promise<unknown>, applied = "no"): Promise<void> {
  return assert.rejects(call, (error) => {
    assert.ok(error instanceof OptserveError, String(error));
    assert.deepEqual([ErrorReason[error.reason ?? 0], error.applied], [ErrorReason[reason], applied]);
    return true;
  });
}

test("a step changes the parameters", async () => {
  const session = await walk();
  const result = await session.step({ w: new Float32Array([3, 4]) }, { pull: true });
  assert.equal(result.step, 1);
  assert.equal(result.outcome, StepOutcome.APPLIED);
  assert.equal(result.gradientNorm, 5);
  assert.deepEqual(result.parameters, { w: new Float32Array([-0.5, 0]) });
  assert.equal(result.parametersStep, 1);
});

test("a stream has several steps in flight, and fills the caller's arrays", async () => {
  const session = await walk();
  const w = new Float32Array(2);
  const stream = session.stream({ pull: true, window: 4 });
  const gradients = Array.from({ length: 20 }, () => ({ w: new Float32Array([1, -1]) }));
  const steps = [];
  for await (const result of stream.steps(gradients, { into: { w } })) steps.push(result.step);
  await stream.close();
  assert.deepEqual(
    steps,
    gradients.map((_, i) => i + 1),
  );
  assert.deepEqual(w, new Float32Array([-9, 12]));
});

test("steps of many chunks, in every element type of the wire", async () => {
  const count = 1_000_003;
  const zeros = initialized([count], initializers.zeros(), "float64");
  const session = await client.createSession({ w: zeros, b: initialized([], initializers.zeros()) }, SGD);
  const w = Float64Array.from({ length: count }, (_, i) => (i % 128) - 64);
  for (const wireDtype of ["float16", "bfloat16", "float32", "float64", undefined] as const) {
    const pull = { wireDtype };
    const result = await session.step({ b: new Float32Array([2]), w }, { pull, wireDtype });
    const taken = result.step;
    const expected = w.map((value) => 0 - value * 0.5 * taken);
    assert.deepEqual(new Float64Array(result.parameters.w ?? []), expected);
    assert.equal(result.parameters.b?.[0], -taken);
  }
});

test("large initial values are uploaded, and pulled into the caller's array", async () => {
  const w = Float32Array.from({ length: 600_000 }, (_, i) => i);
  const session = await client.createSession({ w: tensor([600, 1000], w) }, SGD);
  const into = { w: new Float32Array(w.length) };
  const pulled = await session.pull({ into });
  assert.equal(pulled.arrays.w, into.w);
  assert.deepEqual(into.w, w);
});

test("a pull of nothing newer has no values", async () => {
  const session = await walk();
  assert.deepEqual(await session.pull({ ifNewerThanStep: 0 }), { step: 0, modified: false, arrays: {} });
});

test("a pull waits for the parameters of a later step", async () => {
  const session = await walk();
  const pulled = session.pull({ newerThanStep: 0 });
  await session.step({ w: new Float32Array([2, 2]) });
  assert.deepEqual(await pulled, { step: 1, modified: true, arrays: { w: new Float32Array([0, 1]) } });
});

test("sparse rows", async () => {
  const session = await client.createSession({ e: tensor([3, 2], [0, 0, 0, 0, 0, 0]) }, SGD);
  const rows = { indices: new Int32Array([2, 0, 2]), values: new Float32Array([1, 2, 3, 4, 5, 6]) };
  const { parameters } = await session.step({ e: rows }, { pull: true });
  assert.deepEqual(parameters.e, new Float32Array([-1.5, -2, 0, 0, -3, -4]));
  const short = { indices: new Int32Array([1]), values: new Float32Array(1) };
  await rejectsWith(ErrorReason.SHAPE_MISMATCH, session.step({ e: short }));
});

test("options of a step", async () => {
  const session = await walk([0, 0]);
  const w = new Float32Array([2, 0]);
  const validated = await session.step({ w }, { validateOnly: true });
  assert.equal(validated.outcome, StepOutcome.VALIDATED);
  const overrides = [{ name: "learning_rate", value: 0.25 }];
  const options = { pull: true, expectedStep: 0, lossScale: 2, overrides, perTensorNorms: true };
  const result = await session.step({ w }, options);
  assert.deepEqual(result.parameters.w, new Float32Array([-0.25, 0]));
  assert.deepEqual(result.tensorNorms, [{ name: "w", norm: 1 }]);
});

test("what is wrong with a step is an error that says so, and the next step is applied", async () => {
  const session = await walk([0, 0]);
  const w = new Float32Array([1, 1]);
  await rejectsWith(ErrorReason.STEP_MISMATCH, session.step({ w }, { expectedStep: 7 }));
  await rejectsWith(ErrorReason.NON_FINITE_GRADIENT, session.step({ w: new Float32Array([1, Number.NaN]) }));
  await rejectsWith(ErrorReason.SHAPE_MISMATCH, session.step({ w: new Float32Array(3) }));
  await rejectsWith(ErrorReason.SHAPE_MISMATCH, session.step({ w: tensor([2, 1], [1, 1]) }));
  await rejectsWith(ErrorReason.UNKNOWN_TENSOR, session.step({ b: w }));
  await rejectsWith(ErrorReason.MISSING_TENSOR, session.step({}));
  await assert.rejects(session.step({ w }, { pull: true, into: {} }), RangeError);
  assert.equal((await session.step({ w })).step, 1);
});

test("steps behind a rejected one are not applied", async () => {
  const session = await walk([0, 0]);
  const stream = session.stream();
  const good = { w: new Float32Array([1, 1]) };
  const first = stream.step(good);
  const second = stream.step({ w: new Float32Array([Number.NaN, 0]) });
  const third = stream.step(good);
  assert.equal((await first).step, 1);
  await rejectsWith(ErrorReason.NON_FINITE_GRADIENT, second);
  await assert.rejects(third, (error) => error instanceof OptserveError && error.applied === "no");
  assert.equal((await stream.step(good)).step, 2);
  await stream.close();
});

test("a push writes parameters", async () => {
  const session = await client.createSession({ w: upload([2]), v: tensor([1], [5]) }, SGD);
  await rejectsWith(ErrorReason.PARAMETERS_PENDING, session.step({ w: new Float32Array(2) }));
  await session.push({ w: new Float64Array([7, 8]) }, { expectedStep: 0 });
  const { arrays } = await session.pull();
  assert.deepEqual(arrays, { w: new Float32Array([7, 8]), v: new Float32Array([5]) });
});

test("metrics, and an update of the specification", async () => {
  const session = await client.createSession(
    { w: tensor([1], [0]) },
    { optimizer: optimizers.adam(), earlyStopping: { monitor: "loss", patience: 1 } },
  );
  const { name } = session;
  const report = (value: number) => client.sessions.reportMetrics({ name, metrics: [{ name: "loss", value }] });
  const w = new Float32Array([1]);
  await session.step({ w });
  assert.equal((await report(1)).stopped, false);
  assert.equal((await report(2)).stopped, true);
  await rejectsWith(ErrorReason.TRAINING_STOPPED, session.step({ w }));
  const { earlyStopping: _, ...spec } = session.info.spec ?? {};
  const { transfers } = await client.sessions.updateSession({ name, spec: { ...spec, ...SGD } });
  assert.deepEqual(transfers[0]?.dropped, ["m", "v"]);
  assert.equal((await session.step({ w })).step, 2);
});

test("a weight average is pulled by its point", async () => {
  const session = await client.createSession({ w: tensor([1], [0]) }, { ...SGD, weightAverage: { decay: 0.5 } });
  for (const gradient of [2, 2]) await session.step({ w: new Float32Array([gradient]) });
  const { arrays } = await session.pull({ point: ParameterPoint.AVERAGE });
  assert.deepEqual(arrays.w, new Float32Array([-1.5]));
});

test("a fork and an imported copy go on from the same values", async () => {
  const session = await walk();
  await session.step({ w: new Float32Array([2, 2]) });
  await client.sessions.forkSession({ name: session.name, sessionId: "a-fork" });
  const fork = await client.session("a-fork");
  const copy = await importSession(client, await exportSession(client, session.name));
  for (const each of [fork, copy]) {
    const result = await each.step({ w: new Float32Array([2, 2]) }, { pull: true });
    assert.equal(result.step, 2);
    assert.deepEqual(result.parameters.w, new Float32Array([-1, 0]));
  }
});

test("a session is restored from its snapshots", async () => {
  const session = await walk();
  const { name } = session;
  const snapshotOf = (step: number) => ({ name: `${name}/snapshots/${step}` });
  await client.sessions.createSnapshot({ name });
  for (const step of [1, 2]) {
    await session.step({ w: new Float32Array([2, 2]) });
    assert.equal((await client.sessions.createSnapshot({ name })).snapshot?.step, step);
  }
  const { snapshots } = await client.sessions.listSnapshots({ name });
  assert.deepEqual(
    snapshots.map((snapshot) => snapshot.step),
    [2, 1, 0],
  );
  const restored = await client.sessions.restoreSnapshot({ ...snapshotOf(0), expectedStep: 2 });
  assert.equal(restored.session?.step, 0);
  assert.deepEqual((await session.pull()).arrays.w, new Float32Array([1, 2]));
  const fork = await client.sessions.forkSession(snapshotOf(1));
  assert.deepEqual((await (await client.session(fork.session?.name ?? "")).pull()).arrays.w, new Float32Array([0, 1]));
  // The server may keep the latest one a while longer.
  await client.sessions.deleteSnapshot(snapshotOf(1));
  await rejectsWith(ErrorReason.SNAPSHOT_NOT_FOUND, client.sessions.restoreSnapshot(snapshotOf(1)));
});

test("a watch yields events until the session is deleted", async () => {
  const session = await walk();
  const cases = [];
  for await (const { event, time } of client.sessions.watchSession({ name: session.name })) {
    cases.push(event.case);
    if (event.case === "began") await session.step({ w: new Float32Array([1, 1]) });
    if (event.case === "step") {
      assert.ok(time instanceof Date);
      assert.equal(event.value.step, 1);
      await session.delete();
    }
  }
  assert.deepEqual(cases, ["began", "step", "deleted"]);
});

test("sessions are listed, found and deleted", async () => {
  const session = await client.createSession({ w: tensor([], [1]) }, SGD, { sessionId: "to-be-found" });
  const names = [];
  for (const { name } of (await client.sessions.listSessions({ pageSize: 1000 })).sessions) names.push(name);
  assert.ok(names.includes(session.name));
  assert.equal((await client.session("to-be-found")).info.layout[0]?.name, "w");
  await session.delete();
  await rejectsWith(ErrorReason.SESSION_NOT_FOUND, client.session("to-be-found"));
});

test("functions without a session", async () => {
  const { functions } = client;
  const activation = activations.softmax();
  const input = tensorMessage(tensor([1, 2], new Float64Array([0, 0])));
  const { output } = await functions.computeActivation({ activation, input });
  assert.deepEqual(output && tensorOf(output), tensor([1, 2], new Float64Array([0.5, 0.5])));
  const outputGradient = tensorMessage(tensor([1, 2], new Float64Array([1, 0])));
  const { inputGradient } = await functions.computeActivationGradient({ activation, input, outputGradient });
  assert.deepEqual(inputGradient && tensorOf(inputGradient).data, new Float64Array([0.25, -0.25]));
  const both = { prediction: outputGradient, target: input };
  const loss = await functions.computeLoss({ loss: losses.meanSquaredError(), ...both, gradient: true });
  assert.deepEqual([loss.value, loss.gradient && tensorOf(loss.gradient).data[0]], [0.5, 1]);
  await rejectsWith(ErrorReason.FIELD_REQUIRED, functions.computeLoss(both));
  const schedule = schedules.piecewiseConstant({ boundaries: [2], values: [1, 0.5] });
  const at = { case: "range" as const, value: { stop: 6, stride: 3 } };
  const { values } = await functions.evaluateSchedule({ schedule, at });
  assert.deepEqual(values && tensorOf(values).data, new Float64Array([1, 0.5]));
  const network = { layers: [layers.dense({ units: 3, name: "out" })], inputShape: [4] };
  const estimate = await functions.estimateComplexity({ network, batchSize: 2, optimizer: optimizers.adam() });
  assert.equal(estimate.total?.trainableParameters, 15);
  assert.equal(estimate.layers[0]?.name, "out");
  assert.ok((await client.capabilities.getCapabilities({})).features.includes("snapshots"));
});

test("arguments that cannot be sent are rejected", async () => {
  const session = await walk();
  assert.throws(() => tensor([3], [1]), RangeError);
  assert.throws(() => session.stream({ window: 65 }), RangeError);
  await assert.rejects(session.step({ w: new Float32Array(2) }, { timeoutMs: 0 }), RangeError);
  assert.equal(DurabilityMode.JOURNAL, 1);
});
