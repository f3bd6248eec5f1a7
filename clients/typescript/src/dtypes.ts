/** Element types, and their conversion from and into typed arrays. */

import { DataType } from "./gen/optserve/v1/tensor_pb.js";

/** Values of parameters and gradients. */
export type FloatArray = Float32Array | Float64Array;
/** Elements of a tensor, row-major. */
export type TensorData = FloatArray | Int32Array | BigInt64Array;
/** Element types that values may have on the wire. */
export type WireDtype = "float16" | "bfloat16" | "float32" | "float64";

const WIRE_DTYPES: Record<WireDtype, DataType> = {
  float16: DataType.FLOAT16,
  bfloat16: DataType.BFLOAT16,
  float32: DataType.FLOAT32,
  float64: DataType.FLOAT64,
};

/** The enum value of a wire type; unspecified when undefined. */
export function wireDtype(name: WireDtype | undefined): DataType {
  return name === undefined ? DataType.UNSPECIFIED : WIRE_DTYPES[name];
}

/** Number of bytes of an element; plain bytes have no type. */
export function sizeOf(dtype: DataType): number {
  switch (dtype) {
    case DataType.UNSPECIFIED:
      return 1;
    case DataType.FLOAT16:
    case DataType.BFLOAT16:
      return 2;
    case DataType.FLOAT32:
    case DataType.INT32:
      return 4;
    default:
      return 8;
  }
}

/** The element type of an array. */
export function dtypeOf(data: TensorData | Uint8Array): DataType {
  if (data instanceof Float32Array) return DataType.FLOAT32;
  if (data instanceof Float64Array) return DataType.FLOAT64;
  if (data instanceof Int32Array) return DataType.INT32;
  if (data instanceof BigInt64Array) return DataType.INT64;
  if (data instanceof Uint8Array) return DataType.UNSPECIFIED;
  throw new TypeError("a tensor's data must be a Float32Array, Float64Array, Int32Array or BigInt64Array");
}

/** A new array for elements of a type; one of float32 for those of 16 bits. */
export function arrayOf(dtype: DataType, count: number): TensorData {
  return view(dtype, new ArrayBuffer(count * Math.max(4, sizeOf(dtype))), 0, count);
}

/** An array over a part of a buffer. */
export function view(dtype: DataType, buffer: ArrayBufferLike, offset: number, count: number): TensorData {
  switch (dtype) {
    case DataType.FLOAT64:
      return new Float64Array(buffer, offset, count);
    case DataType.INT32:
      return new Int32Array(buffer, offset, count);
    case DataType.INT64:
      return new BigInt64Array(buffer, offset, count);
    default:
      return new Float32Array(buffer, offset, count);
  }
}

/** The bytes of an array, without copying. */
export function bytesOf(data: ArrayBufferView): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** The bytes of an array's elements in a wire type: a view if that is their own, else converted. */
export function encode(data: TensorData | Uint8Array, dtype: DataType): Uint8Array {
  if (dtypeOf(data) === dtype) return bytesOf(data);
  const values = data as FloatArray;
  switch (dtype) {
    case DataType.FLOAT16:
      return bytesOf(toFloat16(values));
    case DataType.BFLOAT16:
      return bytesOf(toBfloat16(values));
    case DataType.FLOAT32:
      return bytesOf(new Float32Array(values));
    case DataType.FLOAT64:
      return bytesOf(new Float64Array(values));
    default:
      throw new TypeError(`values cannot be converted to ${DataType[dtype]}`);
  }
}

/** Writes elements of a wire type into an array, from a position on. */
export function decode(bytes: Uint8Array, dtype: DataType, target: TensorData, at: number): void {
  if (dtypeOf(target) === dtype) {
    bytesOf(target).set(bytes, at * target.BYTES_PER_ELEMENT);
    return;
  }
  const floats = target as FloatArray;
  const { buffer } = new Uint8Array(bytes); // aligned
  if (dtype === DataType.FLOAT16) fromFloat16(new Uint16Array(buffer), floats, at);
  else if (dtype === DataType.BFLOAT16) fromBfloat16(new Uint16Array(buffer), floats, at);
  else floats.set(view(dtype, buffer, 0, bytes.length / sizeOf(dtype)) as FloatArray, at);
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

function toFloat16(values: FloatArray): Uint16Array {
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    const bits = oddBits(value);
    const sign = (bits >>> 16) & 0x8000;
    const magnitude = bits & 0x7fffffff;
    let half: number;
    if (magnitude > 0x7f800000) half = 0x7e00;
    else if (magnitude >= 0x477ff000)
      half = 0x7c00; // 65520 and more round to infinity
    else if (magnitude >= 0x38800000) {
      half = (magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13;
    } else {
      // Subnormal: whole multiples of 2^-24, rounded to even by the addition.
      half = Math.abs(value) * 2 ** 24 + 2 ** 52 - 2 ** 52;
    }
    halves[i] = sign | half;
  }
  return halves;
}

function toBfloat16(values: FloatArray): Uint16Array {
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const bits = oddBits(values[i] as number);
    const isNan = (bits & 0x7fffffff) > 0x7f800000;
    halves[i] = isNan ? ((bits >>> 16) & 0x8000) | 0x7fc0 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
  }
  return halves;
}

let float16Values: Float32Array | undefined;

function fromFloat16(halves: Uint16Array, target: FloatArray, at: number): void {
  float16Values ??= Float32Array.from({ length: 1 << 16 }, (_, half) => {
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >>> 10) & 0x1f;
    const fraction = half & 0x3ff;
    if (exponent === 0x1f) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  });
  for (let i = 0; i < halves.length; i++) {
    target[at + i] = float16Values[halves[i] as number] as number;
  }
}

function fromBfloat16(halves: Uint16Array, target: FloatArray, at: number): void {
  for (let i = 0; i < halves.length; i++) {
    scratchBits[0] = (halves[i] as number) << 16;
    target[at + i] = scratch[0] as number;
  }
}
