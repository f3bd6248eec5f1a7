/**
 * Trains one linear model with several workers of a synchronous session: each computes the gradient of its own
 * part of the data, and every step applies the mean of all gradients.
 *
 *     npm run workers -- localhost:50051 3
 */

import { connect, optimizers, type SessionHandle, tensor } from "../src/index.js";

const TRUTH = [1, -2, 0.5];
const EXAMPLES = 48; // of each worker
const STEPS = 60;

/** The loss of a worker's examples; fills in its gradient. */
function meanSquare(w: Float32Array, number: number, gradient: Float32Array): number {
  gradient.fill(0);
  let loss = 0;
  for (let example = 0; example < EXAMPLES; example++) {
    const x = TRUTH.map((_, i) => ((example * 7 + number * 5 + i * 11) % 13) / 6 - 1);
    const difference = x.reduce((sum, value, i) => sum + ((w[i] as number) - (TRUTH[i] as number)) * value, 0);
    loss += difference ** 2 / (2 * EXAMPLES);
    for (const [i, value] of x.entries()) gradient[i] = (gradient[i] as number) + (difference * value) / EXAMPLES;
  }
  return loss;
}

/** Takes steps with the gradients of one worker's examples. */
async function work(member: SessionHandle, number: number): Promise<void> {
  const w = new Float32Array(TRUTH.length);
  const gradient = new Float32Array(TRUTH.length);
  await member.pull({ into: { w } });
  for (let step = 0; step < STEPS; step++) {
    const loss = meanSquare(w, number, gradient);
    if (number === 0 && step % 10 === 0) console.log(`step ${step}: loss ${loss.toFixed(6)}`);
    // Waits for the other members; w is then what all of them continue with.
    await member.step({ w: gradient }, { pull: true, into: { w } });
  }
  await member.leave();
}

const [target = "localhost:50051", count = "3"] = process.argv.slice(2);
const client = connect(target);
const session = await client.createSession(
  { w: tensor([TRUTH.length], new Float32Array(TRUTH.length)) },
  { optimizer: optimizers.sgd({ learningRate: 1 }), coordination: { mode: { case: "sync", value: {} } } },
);
const members: SessionHandle[] = [];
// All join before the first step, because a step waits for every member.
for (let number = 0; number < Number(count); number++) {
  const member = await client.session(session.name, { worker: `worker-${number}` });
  const { rank, epoch } = await member.join();
  console.log(`worker-${number} joined as rank ${rank} in epoch ${epoch}`);
  members.push(member);
}
await Promise.all(members.map(work));
const { step, arrays } = await session.pull();
const found = Array.from(arrays.w ?? [], (value) => value.toFixed(3)).join(", ");
console.log(`step ${step}: w = ${found}; true ${TRUTH.join(", ")}`);
await session.delete();
client.close();
