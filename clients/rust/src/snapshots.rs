//! Copies and files of a session.

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tonic::Code;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::payload::{Payload, frame};
use crate::session::{Session, random_name};
use crate::tensor::Tensor;
use crate::v1::{self, DataType};

impl Session {
    /// Creates a copy of a snapshot, or of the session if it is `None`. `id` is the last part of the copy's
    /// name; chosen by the server if empty.
    pub async fn fork(&self, snapshot: Option<&str>, id: &str) -> Result<Session> {
        let (name, session_id) = (snapshot.unwrap_or(&self.name).to_owned(), id.to_owned());
        let request = v1::ForkSessionRequest { name, session_id, ..Default::default() };
        Session::new(&self.client, self.client.call(request).await?.session, "", 1)
    }

    /// Writes a snapshot, or the session if it is `None`, as a safetensors file, and returns the step in the
    /// file. It has no deadline, because only the server knows the length, and is not repeated; after an error,
    /// a part of the file may have been written.
    pub async fn export(&self, snapshot: Option<&str>, file: &mut (impl AsyncWrite + Unpin)) -> Result<i64> {
        let request = v1::ExportSnapshotRequest { name: snapshot.unwrap_or(&self.name).to_owned() };
        let failed = |error| Error::new(Code::Aborted, format!("the file cannot be written: {error}"));
        let mut inbox = self.client.request(&request, None);
        let v1::ExportSnapshotResponse { header, mut chunk } = inbox.expect().await?;
        let header = header.ok_or_else(|| Error::malformed("has no header"))?;
        let mut received = 0;
        while received < header.byte_count {
            if let Some(v1::Chunk { data, .. }) = chunk.take() {
                file.write_all(&data).await.map_err(failed)?;
                received += data.len() as u64;
            } else {
                chunk = inbox.expect().await?.chunk;
            }
        }
        file.flush().await.map_err(failed)?;
        Ok(header.step)
    }
}

impl Client {
    /// Creates a session from the bytes of a file that [`Session::export`] wrote, on any server. `id` is the
    /// last part of its name; chosen by the server if empty.
    pub async fn import_session(&self, file: &[u8], id: &str) -> Result<Session> {
        let mut payload = Payload::default();
        payload.push(Tensor::of_bytes(file), DataType::Unspecified);
        let byte_count = file.len() as u64;
        let header = v1::ImportHeader { request_id: random_name(), session_id: id.to_owned(), byte_count };
        let head = frame(&v1::ImportSnapshotRequest { header: Some(header), chunk: None });
        let answer = self.upload::<v1::ImportSnapshotRequest>(head, &payload).await?;
        Session::new(self, answer.session, "", 1)
    }
}
