// Methods of the services.

impl crate::Rpc for GetCapabilitiesRequest {
    const PATH: &'static str = "/optserve.v1.CapabilitiesService/GetCapabilities";
    type Answer = GetCapabilitiesResponse;
}

impl crate::Rpc for EvaluateScheduleRequest {
    const PATH: &'static str = "/optserve.v1.FunctionService/EvaluateSchedule";
    type Answer = EvaluateScheduleResponse;
}

impl crate::Rpc for ComputeLossRequest {
    const PATH: &'static str = "/optserve.v1.FunctionService/ComputeLoss";
    type Answer = ComputeLossResponse;
}

impl crate::Rpc for ComputeActivationRequest {
    const PATH: &'static str = "/optserve.v1.FunctionService/ComputeActivation";
    type Answer = ComputeActivationResponse;
}

impl crate::Rpc for ComputeActivationGradientRequest {
    const PATH: &'static str = "/optserve.v1.FunctionService/ComputeActivationGradient";
    type Answer = ComputeActivationGradientResponse;
}

impl crate::Rpc for EstimateComplexityRequest {
    const PATH: &'static str = "/optserve.v1.FunctionService/EstimateComplexity";
    type Answer = EstimateComplexityResponse;
}

impl crate::Rpc for JoinSessionRequest {
    const PATH: &'static str = "/optserve.v1.WorkerService/JoinSession";
    type Answer = JoinSessionResponse;
}

impl crate::Rpc for RenewLeaseRequest {
    const PATH: &'static str = "/optserve.v1.WorkerService/RenewLease";
    type Answer = RenewLeaseResponse;
}

impl crate::Rpc for LeaveSessionRequest {
    const PATH: &'static str = "/optserve.v1.WorkerService/LeaveSession";
    type Answer = LeaveSessionResponse;
}

impl crate::Rpc for ListWorkersRequest {
    const PATH: &'static str = "/optserve.v1.WorkerService/ListWorkers";
    type Answer = ListWorkersResponse;
}

impl crate::Rpc for AcquireShardsRequest {
    const PATH: &'static str = "/optserve.v1.WorkerService/AcquireShards";
    type Answer = AcquireShardsResponse;
}

impl crate::Rpc for ReleaseShardsRequest {
    const PATH: &'static str = "/optserve.v1.WorkerService/ReleaseShards";
    type Answer = ReleaseShardsResponse;
}

impl crate::Rpc for CreateSessionRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/CreateSession";
    type Answer = CreateSessionResponse;

    fn request_id(&mut self) -> Option<&mut String> {
        Some(&mut self.request_id)
    }
}

impl crate::Rpc for GetSessionRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/GetSession";
    type Answer = GetSessionResponse;
}

impl crate::Rpc for ListSessionsRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/ListSessions";
    type Answer = ListSessionsResponse;
}

impl crate::Rpc for DeleteSessionRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/DeleteSession";
    type Answer = DeleteSessionResponse;

    fn request_id(&mut self) -> Option<&mut String> {
        Some(&mut self.request_id)
    }
}

impl crate::Rpc for UpdateSessionRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/UpdateSession";
    type Answer = UpdateSessionResponse;

    fn request_id(&mut self) -> Option<&mut String> {
        Some(&mut self.request_id)
    }
}

impl crate::Rpc for ReportMetricsRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/ReportMetrics";
    type Answer = ReportMetricsResponse;

    fn request_id(&mut self) -> Option<&mut String> {
        Some(&mut self.request_id)
    }
}

impl crate::Rpc for StepRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/Step";
    type Answer = StepResponse;
}

impl crate::Rpc for StepStreamRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/StepStream";
    type Answer = StepStreamResponse;
}

impl crate::Rpc for PullParametersRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/PullParameters";
    type Answer = PullParametersResponse;
}

impl crate::Rpc for PushParametersRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/PushParameters";
    type Answer = PushParametersResponse;
}

impl crate::Rpc for WatchSessionRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/WatchSession";
    type Answer = WatchSessionResponse;
}

impl crate::Rpc for GetHistoryRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/GetHistory";
    type Answer = GetHistoryResponse;
}

impl crate::Rpc for CreateSnapshotRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/CreateSnapshot";
    type Answer = CreateSnapshotResponse;

    fn request_id(&mut self) -> Option<&mut String> {
        Some(&mut self.request_id)
    }
}

impl crate::Rpc for ListSnapshotsRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/ListSnapshots";
    type Answer = ListSnapshotsResponse;
}

impl crate::Rpc for DeleteSnapshotRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/DeleteSnapshot";
    type Answer = DeleteSnapshotResponse;

    fn request_id(&mut self) -> Option<&mut String> {
        Some(&mut self.request_id)
    }
}

impl crate::Rpc for RestoreSnapshotRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/RestoreSnapshot";
    type Answer = RestoreSnapshotResponse;

    fn request_id(&mut self) -> Option<&mut String> {
        Some(&mut self.request_id)
    }
}

impl crate::Rpc for ForkSessionRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/ForkSession";
    type Answer = ForkSessionResponse;

    fn request_id(&mut self) -> Option<&mut String> {
        Some(&mut self.request_id)
    }
}

impl crate::Rpc for ExportSnapshotRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/ExportSnapshot";
    type Answer = ExportSnapshotResponse;
}

impl crate::Rpc for ImportSnapshotRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/ImportSnapshot";
    type Answer = ImportSnapshotResponse;
}

impl crate::Rpc for ShareMemoryRequest {
    const PATH: &'static str = "/optserve.v1.SessionService/ShareMemory";
    type Answer = ShareMemoryResponse;
}
