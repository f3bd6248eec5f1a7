/** Element types, and their conversion from and into typed arrays. */

import * as v1 from "./v1.js";

/** Values of parameters and gradients. */
export type FloatArray = Float32Array | Float64Array;
/** Elements of a tensor, row-major. */
export type TensorData = FloatArray | Int32Array | BigInt64Array;
/** Element types that values may have on the wire. */
export type WireDtype = "float16" | "bfloat16" | "float32" | "float64";

/** By element type: the size, and the array whose elements are those of the wire. Plain bytes have no type. */
const SIZES = [1, 2, 2, 4, 8, 4, 8];
const ARRAYS = [Uint8Array, undefined, undefined, Float32Array, Float64Array, Int32Array, BigInt64Array];

/** The enum value of a wire type; unspecified when undefined. */
export function wireDtype(name: WireDtype | undefined): v1.DataType {
  return v1.DataType[(name?.toUpperCase() ?? "UNSPECIFIED") as keyof typeof v1.DataType];
}

/** Number of bytes of an element. */
export function sizeOf(dtype: v1.DataType): number {
  return SIZES[dtype] as number;
}

/** The element type of an array. */
export function dtypeOf(data: TensorData | Uint8Array): v1.DataType {
  const dtype = ARRAYS.findIndex((kind) => kind !== undefined && data instanceof kind);
  if (dtype >= 0) return dtype;
  throw new TypeError("a tensor's data must be a Float32Array, Float64Array, Int32Array or BigInt64Array");
}

/** A new array for elements of a type; one of float32 for those of 16 bits. */
export function arrayOf(dtype: v1.DataType, count: number): TensorData {
  return view(dtype, new ArrayBuffer(count * Math.max(4, sizeOf(dtype))), 0, count);
}

/** An array over a part of a buffer. */
export function view(dtype: v1.DataType, buffer: ArrayBuffer, offset: number, count: number): TensorData {
  return new (ARRAYS[dtype] ?? Float32Array)(buffer, offset, count) as TensorData;
}

/** The bytes of an array, without copying. */
export function bytesOf(data: ArrayBufferView): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** The bytes of an array's elements in a wire type: a view if that is their own, else converted. */
export function encode(data: TensorData | Uint8Array, dtype: v1.DataType): Uint8Array {
  if (dtypeOf(data) === dtype) return bytesOf(data);
  const values = data as FloatArray;
  const converted = new (ARRAYS[dtype] ?? Uint16Array)(values.length) as FloatArray;
  if (sizeOf(dtype) > 2) converted.set(values);
  else {
    const round = dtype === v1.DataType.FLOAT16 ? toFloat16 : toBfloat16;
    for (let i = 0; i < values.length; i++) converted[i] = round(values[i] as number);
  }
  return bytesOf(converted);
}

/** Writes elements of a wire type into an array, from a position on. */
export function decode(bytes: Uint8Array, dtype: v1.DataType, target: TensorData, at: number): void {
  if (dtypeOf(target) === dtype) {
    bytesOf(target).set(bytes, at * target.BYTES_PER_ELEMENT);
    return;
  }
  const floats = target as FloatArray;
  const { buffer } = new Uint8Array(bytes); // aligned
  if (sizeOf(dtype) > 2) {
    floats.set(view(dtype, buffer, 0, bytes.length / sizeOf(dtype)) as FloatArray, at);
    return;
  }
  const halves = new Uint16Array(buffer);
  const widen = dtype === v1.DataType.FLOAT16 ? fromFloat16 : fromBfloat16;
  for (let i = 0; i < halves.length; i++) floats[at + i] = widen(halves[i] as number);
}

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

/**
 * The bits of a number as float32, rounded to odd: a second rounding to 16 bits then gives the same as a
 * single one (Boldo and Melquiond, 2005).
 */
function oddBits(value: number): number {
  scratch[0] = value;
  let bits = scratchBits[0] as number;
  const rounded = scratch[0] as number;
  if (rounded !== value && !Number.isNaN(value) && Number.isFinite(value)) {
    if (Math.abs(rounded) > Math.abs(value)) bits -= 1;
    bits |= 1;
  }
  return bits >>> 0;
}

function toFloat16(value: number): number {
  const bits = oddBits(value);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and more round to infinity
  if (magnitude >= 0x38800000) {
    return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
  }
  // Subnormal: whole multiples of 2^-24, rounded to even by the addition.
  return sign | (Math.abs(value) * 2 ** 24 + 2 ** 52 - 2 ** 52);
}

function toBfloat16(value: number): number {
  const bits = oddBits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return ((bits >>> 16) & 0x8000) | 0x7fc0;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

let float16Values: Float32Array | undefined;

function fromFloat16(half: number): number {
  float16Values ??= Float32Array.from({ length: 1 << 16 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >>> 10) & 0x1f;
    const fraction = bits & 0x3ff;
    if (exponent === 0x1f) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  });
  return float16Values[half] as number;
}

function fromBfloat16(half: number): number {
  scratchBits[0] = half << 16;
  return scratch[0] as number;
}
