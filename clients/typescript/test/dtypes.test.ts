import assert from "node:assert/strict";
import { test } from "node:test";
import { CHUNK_BYTES, chunked, Reception } from "../src/chunks.js";
import { decode, encode } from "../src/dtypes.js";
import { DataType, TensorLayoutSchema } from "../src/gen/optserve/v1/tensor_pb.js";
import { toMessage } from "../src/values.js";
import { python } from "./server.js";

const NUMPY = `
import sys, numpy, ml_dtypes
values = numpy.random.default_rng(0).normal(size=5000) * 2.0 ** numpy.arange(-2500, 2500).clip(-160, 140)
ties = [(2048 + i + 0.5) * 2.0**e for i in range(4) for e in (-40, -35, -26, -20, 0, 4, 5)]
above = [t * (1 + 2.0**-52) for t in ties]
special = [0.0, -0.0, numpy.inf, -numpy.inf, 65504, 65519.99, 65520, 1e39, -1e39, 2**-24, 2**-25, 2**-26]
values = numpy.array([*values, *ties, *above, *special])
for kind in ("float64", "float32"):
    given = values.astype(kind)
    for name in ("float16", "bfloat16"):
        print(given.tobytes().hex(), given.astype(name).tobytes().hex())
`;

test("values are rounded to 16 bits as NumPy rounds them", () => {
  const lines = python("-W", "ignore", "-c", NUMPY).trim().split("\n");
  for (const [i, line] of lines.entries()) {
    const [given, expected] = line.split(" ").map((hex) => new Uint8Array(Buffer.from(hex, "hex")));
    const values = i < 2 ? new Float64Array(given?.buffer ?? []) : new Float32Array(given?.buffer ?? []);
    const halves = encode(values, i % 2 ? DataType.BFLOAT16 : DataType.FLOAT16);
    assert.deepEqual(Buffer.from(halves), Buffer.from(expected ?? []));
  }
});

test("every value of 16 bits survives", () => {
  const halves = Uint16Array.from({ length: 1 << 16 }, (_, i) => i);
  for (const [dtype, infinity] of [
    [DataType.FLOAT16, 0x7c00],
    [DataType.BFLOAT16, 0x7f80],
  ] as const) {
    for (const values of [new Float32Array(1 << 16), new Float64Array(1 << 16)]) {
      decode(new Uint8Array(halves.buffer), dtype, values, 0);
      const again = new Uint16Array(encode(values, dtype).slice().buffer);
      for (const [i, half] of halves.entries()) {
        if ((half & 0x7fff) > infinity) assert.ok(Number.isNaN(values[i]));
        else assert.equal(again[i], half);
      }
    }
  }
});

test("NaN stays NaN", () => {
  for (const dtype of [DataType.FLOAT16, DataType.BFLOAT16]) {
    const values = new Float32Array(1);
    decode(encode(new Float32Array([Number.NaN]), dtype), dtype, values, 0);
    assert.ok(Number.isNaN(values[0]));
  }
});

test("chunks refer to the caller's arrays", () => {
  const data = new Float32Array(CHUNK_BYTES / 2);
  const pieces = [...chunked(new Uint8Array(0), 4, [{ data, dtype: DataType.FLOAT32 }])];
  assert.equal(pieces.length, 2);
  for (const message of pieces) assert.equal(message.at(-1)?.buffer, data.buffer);
});

test("chunks of any size are received, also if they end within an element", () => {
  const tensors = [
    { name: "a", dtype: DataType.FLOAT32, shape: [3], byteOffset: 0, byteCount: 12 },
    { name: "b", dtype: DataType.BFLOAT16, shape: [2], byteOffset: 12, byteCount: 4 },
  ].map((tensor) => toMessage(TensorLayoutSchema, tensor));
  const bytes = Buffer.concat([
    encode(new Float32Array([1, 2, 3]), DataType.FLOAT32),
    encode(new Float32Array([4, 5]), DataType.BFLOAT16),
  ]);
  for (let size = 1; size <= bytes.length; size++) {
    const reception = new Reception(tensors, bytes.length, undefined);
    for (let at = 0; at < bytes.length; at += size) {
      assert.ok(!reception.isComplete);
      reception.add(at, bytes.subarray(at, at + size));
    }
    assert.ok(reception.isComplete);
    assert.deepEqual(reception.arrays, { a: new Float32Array([1, 2, 3]), b: new Float32Array([4, 5]) });
  }
});

test("a chunk that leaves a gap is an error", () => {
  const reception = new Reception([], 8, undefined);
  assert.throws(() => reception.add(4, new Uint8Array(4)), /does not follow/);
});
