/** Messages of drivers as the client's values, and back. */

import type { MessageInitShape } from "@bufbuild/protobuf";
import type {
  DriverResponseSchema,
  Tensors as TensorsMessage,
  TensorsSchema,
} from "../src/gen/optserve/conformance/v1/driver_pb.js";
import {
  type Arrays,
  type FloatArray,
  type InitialValue,
  initialized,
  type SessionHandle,
  type Tensor,
  type TensorData,
  tensor,
} from "../src/index.js";
import { DataType, type ParameterInit, type Tensor as TensorMessage } from "../src/v1.js";

export type Outcome = NonNullable<MessageInitShape<typeof DriverResponseSchema>["outcome"]>;
export type Tensors = MessageInitShape<typeof TensorsSchema>;
type TensorInit = { dtype: DataType; shape: bigint[]; data: Uint8Array };

const ARRAYS = {
  [DataType.FLOAT32]: Float32Array,
  [DataType.FLOAT64]: Float64Array,
  [DataType.INT32]: Int32Array,
  [DataType.INT64]: BigInt64Array,
};

/** The tensor of a message. */
export function given<T extends TensorData = FloatArray>(message: TensorMessage | undefined): Tensor<T> {
  const { dtype, shape, data } = required(message);
  const { buffer } = new Uint8Array(data); // aligned
  return tensor<T>(shape.map(Number), new ARRAYS[dtype as keyof typeof ARRAYS](buffer) as TensorData as T);
}

/** Tensors by name. */
export function givenByName(message: TensorsMessage | undefined): Record<string, Tensor<FloatArray>> {
  return Object.fromEntries((message?.tensors ?? []).map(({ name, tensor }) => [name, given(tensor)]));
}

/** A tensor as a message. */
export function tensorInit({ shape, data }: Tensor): TensorInit {
  const dtype = data instanceof Float32Array ? DataType.FLOAT32 : DataType.FLOAT64;
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return { dtype, shape: shape.map(BigInt), data: bytes };
}

/** A session's arrays as a message. */
export function named(session: SessionHandle, arrays: Arrays): Tensors {
  const shapes = new Map(session.info.layout.map(({ name, shape }) => [name, shape]));
  const tensors = Object.entries(arrays).map(([name, data]) => ({
    name,
    tensor: tensorInit({ shape: shapes.get(name) ?? [], data }),
  }));
  return { tensors };
}

/** What a parameter is at first. */
export function initialValue({ source }: ParameterInit): InitialValue {
  if (source.case === "value") return given(source.value);
  const { dtype, shape, spec } = required(source.case === "initializer" ? source.value : undefined);
  return initialized(shape.map(Number), required(spec), dtype === DataType.FLOAT32 ? "float32" : "float64");
}

/** A field that has to be there. */
export function required<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("the request lacks a field");
  return value;
}
