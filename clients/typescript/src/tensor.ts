/** Tensors: an element type, a shape and flat elements. */

import { arrayOf, bytesOf, decode, dtypeOf, type FloatArray, sizeOf, type TensorData } from "./dtypes.js";
import type * as v1 from "./v1.js";
import type { Init, Value } from "./values.js";

/** A dense array. */
export interface Tensor<T extends TensorData = TensorData> {
  /** Extent of each dimension, outermost first; empty for a scalar. */
  readonly shape: readonly number[];
  /** The elements, row-major. */
  readonly data: T;
}

/** Some rows of a tensor: slices along its first dimension. Rows that are given more than once are summed. */
export interface SparseRows {
  /** Which rows. */
  readonly indices: Int32Array | BigInt64Array;
  /** Their values, row after row. */
  readonly values: FloatArray;
}

/**
 * Makes a tensor.
 *
 * @param shape - extent of each dimension, outermost first.
 * @param data - the elements, row-major; numbers become float32.
 * @throws RangeError if the number of elements is not that of the shape.
 */
export function tensor(shape: readonly number[], data: readonly number[]): Tensor<Float32Array>;
export function tensor<T extends TensorData>(shape: readonly number[], data: T): Tensor<T>;
export function tensor(shape: readonly number[], data: TensorData | readonly number[]): Tensor {
  const elements = Array.isArray(data) ? new Float32Array(data) : data;
  const count = countOf(shape);
  if (elements.length !== count) {
    throw new RangeError(`a tensor of shape [${shape}] has ${count} elements, not ${elements.length}`);
  }
  return { shape, data: elements as TensorData };
}

/** Number of elements of a shape. */
export function countOf(shape: readonly (number | bigint)[]): number {
  return shape.reduce<number>((product, extent) => product * Number(extent), 1);
}

/** A tensor as a message that refers to its elements. */
export function tensorMessage(given: Tensor): Init<v1.Tensor> {
  return { dtype: dtypeOf(given.data), shape: given.shape, data: bytesOf(given.data) };
}

/** The tensor of a message, in memory of its own; float32 for elements of 16 bits. */
export function tensorOf<T extends TensorData = TensorData>(message: v1.Tensor | Value<v1.Tensor>): Tensor<T> {
  const { dtype, data } = message;
  const elements = arrayOf(dtype, data.length / sizeOf(dtype));
  decode(data, dtype, elements, 0);
  return { shape: message.shape.map(Number), data: elements as T };
}
