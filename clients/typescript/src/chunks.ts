/** Long sequences of bytes in chunks: from the caller's arrays, and into them. */

import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { arrayOf, decode, encode, type FloatArray, sizeOf, type TensorData, view } from "./dtypes.js";
import { Code, OptserveError } from "./errors.js";
import type * as v1 from "./v1.js";

/** Bytes of a chunk; a whole number of elements of every type. */
export const CHUNK_BYTES = 1 << 20;

/** Elements that are sent, and their element type on the wire; plain bytes have none. */
export interface Part {
  readonly data: TensorData | Uint8Array;
  readonly dtype: v1.DataType;
}

/** Number of bytes that parts have on the wire. */
export function byteCountOf(parts: readonly Part[]): number {
  return parts.reduce((sum, part) => sum + part.data.length * sizeOf(part.dtype), 0);
}

/**
 * Encodes a message and what follows it in chunks. Each yielded message is in pieces, which refer to the
 * arrays unless these have to be converted.
 *
 * @param head - the encoded first message without its chunk.
 * @param field - number of the field that holds a chunk.
 * @param parts - the elements, in the order of their bytes.
 */
export function* chunked(head: Uint8Array, field: number, parts: readonly Part[]): Generator<Uint8Array[]> {
  const total = byteCountOf(parts);
  if (total === 0) yield [head];
  let part = 0;
  let at = 0; // first element of the part that is not sent
  for (let offset = 0; offset < total; offset += CHUNK_BYTES) {
    const size = Math.min(CHUNK_BYTES, total - offset);
    const prefix = chunkPrefix(field, offset, size);
    const pieces = offset === 0 ? [head, prefix] : [prefix];
    for (let left = size; left > 0; ) {
      const { data, dtype } = parts[part] as Part;
      const count = Math.min(data.length - at, left / sizeOf(dtype));
      pieces.push(encode(data.subarray(at, at + count), dtype));
      left -= count * sizeOf(dtype);
      at += count;
      if (at === data.length) {
        part += 1;
        at = 0;
      }
    }
    yield pieces;
  }
}

/** What stands before the bytes of a chunk. */
function chunkPrefix(field: number, offset: number, size: number): Uint8Array {
  const fields = new BinaryWriter();
  if (offset > 0) fields.uint32((1 << 3) | 0).uint64(offset);
  const inner = fields
    .uint32((2 << 3) | 2)
    .uint32(size)
    .finish();
  return new BinaryWriter()
    .uint32((field << 3) | 2)
    .uint32(inner.length + size)
    .raw(inner)
    .finish();
}

/** Parameters by tensor name: flat and row-major. */
export type Arrays = Record<string, FloatArray>;

interface Target {
  readonly data: TensorData;
  readonly dtype: v1.DataType;
}

/** Receives the bytes of tensors into arrays: the caller's, or new ones over one buffer where types allow. */
export class Reception {
  readonly arrays: Arrays = {};
  readonly #targets: Target[];
  readonly #byteCount: number;
  #carry = new Uint8Array(0); // the beginning of an element whose end is in the next chunk
  #next = 0;
  #received = 0;
  #target = 0;

  constructor(tensors: readonly v1.TensorLayout[], byteCount: number, into: Readonly<Arrays> | undefined) {
    this.#byteCount = byteCount;
    const buffer = new ArrayBuffer(into === undefined ? byteCount : 0);
    this.#targets = tensors.map((tensor) => {
      const data = into === undefined ? newArray(tensor, buffer) : (into[tensor.name] as TensorData);
      this.arrays[tensor.name] = data as FloatArray;
      return { data, dtype: tensor.dtype };
    });
  }

  /** Whether every byte has been received. */
  get isComplete(): boolean {
    return this.#received === this.#byteCount;
  }

  /** Takes the bytes of the next chunk. */
  add(offset: number, bytes: Uint8Array): void {
    if (offset !== this.#received || offset + bytes.length > this.#byteCount) {
      throw new OptserveError(`the chunk at ${offset} does not follow ${this.#received} bytes`, Code.INTERNAL);
    }
    this.#received += bytes.length;
    let rest = this.#carry.length ? Buffer.concat([this.#carry, bytes]) : bytes;
    while (this.#target < this.#targets.length) {
      const { data, dtype } = this.#targets[this.#target] as Target;
      const width = sizeOf(dtype);
      const left = data.length - this.#next;
      const count = Math.min(left, Math.floor(rest.length / width));
      decode(rest.subarray(0, count * width), dtype, data, this.#next);
      rest = rest.subarray(count * width);
      this.#next += count;
      if (this.#next < data.length) break;
      this.#target += 1;
      this.#next = 0;
    }
    this.#carry = new Uint8Array(rest);
  }
}

function newArray(tensor: v1.TensorLayout, buffer: ArrayBuffer): TensorData {
  const width = sizeOf(tensor.dtype);
  const count = Number(tensor.byteCount) / width;
  return width === 2 ? arrayOf(tensor.dtype, count) : view(tensor.dtype, buffer, Number(tensor.byteOffset), count);
}
