/**
 * Trains a classifier of iris flowers on a server: one dense layer, with five optimizers. The program only
 * multiplies matrices; the server computes softmax, loss and their gradients, and takes the steps.
 *
 *     npm run quickstart -- localhost:50051
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  activations,
  type Client,
  connect,
  initialized,
  initializers,
  losses,
  optimizers,
  tensor,
  tensorMessage,
  tensorOf,
} from "../src/index.js";
import { Convention } from "../src/v1.js";

const FILE = join(import.meta.dirname, "../../../../data/iris.csv");
const SPECIES = ["setosa", "versicolor", "virginica"];
const FEATURES = 4;
const CLASSES = SPECIES.length;
const TEST_COUNT = 30;
const BATCH = 32;

const OPTIMIZERS = {
  SGD: optimizers.sgd,
  momentum: optimizers.momentum,
  AdaGrad: optimizers.adagrad,
  RMSProp: optimizers.rmsprop,
  Adam: optimizers.adam,
};

/** The shuffle of the Python demo, numpy.random.default_rng(0).permutation(150): the numbers of both are the same. */
// biome-ignore format: a table
const ORDER = [
  71, 108, 54, 118, 130, 52, 64, 110, 119, 42, 87, 72, 116, 85, 5, 91, 53, 16, 39, 123, 106, 98, 99, 97, 102, 13, 129, 140, 74, 134, 136, 148, 147, 1, 84, 2, 132, 11, 37, 122, 93, 131, 23, 139, 48, 38, 36, 68, 20, 145, 34, 10, 27, 50, 124, 25, 43, 144, 8, 117, 44, 9, 111, 92, 22, 19, 125, 90, 142, 126, 88, 4, 55, 75, 17, 80, 3, 83, 109, 15, 100, 30, 66, 35, 107, 81, 137, 28, 82, 18, 6, 67, 65, 94, 24, 133, 57, 21, 105, 114, 103, 47, 0, 60, 70, 62, 45, 86, 63, 26, 51, 101, 112, 49, 128, 146, 41, 40, 96, 135, 61, 12, 79, 141, 32, 56, 89, 46, 58, 14, 73, 138, 143, 115, 31, 104, 77, 76, 7, 149, 69, 113, 127, 121, 78, 120, 59, 29, 33, 95,
];

interface Flower {
  inputs: number[];
  label: number;
}

type Weights = { weights: Float32Array; bias: Float32Array };

function flowers(): Flower[] {
  const rows = readFileSync(FILE, "utf8").trim().split("\n").slice(1);
  return ORDER.map((row) => {
    const cells = (rows[row] ?? "").split(",");
    return {
      inputs: cells.slice(0, FEATURES).map((cell) => Math.fround(Number(cell))),
      label: SPECIES.indexOf(cells[FEATURES] ?? ""),
    };
  });
}

/** Trains with one optimizer, and returns a line of the table. */
async function train(client: Client, name: keyof typeof OPTIMIZERS, epochs: number): Promise<string> {
  const [training, testing] = [flowers().slice(0, -TEST_COUNT), flowers().slice(-TEST_COUNT)];
  const small = initializers.truncatedNormal({ stddev: 0.1 });
  const session = await client.createSession(
    { weights: initialized([FEATURES, CLASSES], small), bias: initialized([CLASSES], small) },
    { optimizer: OPTIMIZERS[name]({ learningRate: 0.1, convention: Convention.LECTURE }) },
  );
  const model = { weights: new Float32Array(FEATURES * CLASSES), bias: new Float32Array(CLASSES) };
  await session.pull({ into: model });
  const begun = performance.now();
  let [loss, steps] = [0, 0];
  for (let epoch = 1; epoch <= epochs; epoch++) {
    const batchLosses = [];
    for (let start = 0; start < training.length; start += BATCH) {
      const { value, gradients } = await lossAndGradients(client, model, training.slice(start, start + BATCH));
      steps = (await session.step(gradients, { pull: true, into: model })).step;
      batchLosses.push(value);
    }
    loss = batchLosses.reduce((sum, each) => sum + each) / batchLosses.length;
    process.stderr.write(`\r${name.padEnd(10)} epoch ${epoch} of ${epochs}, loss ${loss.toFixed(4)} `);
  }
  const speed = (steps / (performance.now() - begun)) * 1000;
  process.stderr.write("\n");
  await session.delete();
  const correct = testing.filter((flower) => classOf(model, flower) === flower.label).length;
  const accuracy = `${((100 * correct) / testing.length).toFixed(1)}%`;
  return name.padEnd(12) + loss.toFixed(8).padStart(12) + accuracy.padStart(16) + speed.toFixed(0).padStart(10);
}

/** Backwards through loss, softmax and dense layer. */
async function lossAndGradients(
  client: Client,
  model: Weights,
  batch: Flower[],
): Promise<{ value: number; gradients: Weights }> {
  const activation = activations.softmax();
  const shape = [batch.length, CLASSES];
  const input = tensorMessage(tensor(shape, new Float32Array(batch.flatMap((flower) => logits(model, flower)))));
  const { output: prediction } = await client.functions.computeActivation({ activation, input });
  const target = batch.flatMap(({ label }) => SPECIES.map((_, kind) => Number(kind === label)));
  const { value, gradient: outputGradient } = await client.functions.computeLoss({
    loss: losses.meanSquaredError(),
    prediction,
    target: tensorMessage(tensor(shape, target)),
    gradient: true,
  });
  const answer = await client.functions.computeActivationGradient({ activation, input, outputGradient });
  const dz = tensorOf<Float32Array>(answer.inputGradient!);
  const gradients = { weights: new Float32Array(FEATURES * CLASSES), bias: new Float32Array(CLASSES) };
  for (const [row, { inputs }] of batch.entries()) {
    for (let kind = 0; kind < CLASSES; kind++) {
      const slope = dz.data[row * CLASSES + kind] ?? 0;
      gradients.bias[kind]! += slope;
      for (const [feature, x] of inputs.entries()) gradients.weights[feature * CLASSES + kind]! += x * slope;
    }
  }
  return { value: value ?? 0, gradients };
}

/** The outputs of the dense layer, rounded as float32 products are. */
function logits({ weights, bias }: Weights, { inputs }: Flower): number[] {
  return Array.from(bias, (each, kind) => {
    const product = inputs.reduce((sum, input, i) => Math.fround(sum + input * (weights[i * CLASSES + kind] ?? 0)), 0);
    return product + each;
  });
}

function classOf(model: Weights, flower: Flower): number {
  const z = logits(model, flower);
  return z.indexOf(Math.max(...z));
}

const [address, epochs = "500"] = process.argv.slice(2);
const client = connect(address);
const table = [
  `${"optimizer".padEnd(12)}${"final loss".padStart(12)}${"test accuracy".padStart(16)}${"steps/s".padStart(10)}`,
];
for (const name of Object.keys(OPTIMIZERS) as (keyof typeof OPTIMIZERS)[]) {
  table.push(await train(client, name, Number(epochs)));
}
console.log(table.join("\n"));
client.close();
