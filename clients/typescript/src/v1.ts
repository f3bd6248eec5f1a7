/** The messages of the contract, as generated. @module */

export * from "./gen/optserve/v1/activation_spec_pb.js";
export * from "./gen/optserve/v1/capabilities_service_pb.js";
export * from "./gen/optserve/v1/convention_pb.js";
export * from "./gen/optserve/v1/error_reason_pb.js";
export * from "./gen/optserve/v1/function_service_pb.js";
export * from "./gen/optserve/v1/initializer_spec_pb.js";
export * from "./gen/optserve/v1/loss_spec_pb.js";
export * from "./gen/optserve/v1/network_spec_pb.js";
export * from "./gen/optserve/v1/optimizer_spec_pb.js";
export * from "./gen/optserve/v1/schedule_spec_pb.js";
export * from "./gen/optserve/v1/session_pb.js";
export * from "./gen/optserve/v1/session_service_pb.js";
export * from "./gen/optserve/v1/tensor_pb.js";
export * from "./gen/optserve/v1/worker_service_pb.js";
