//! Snapshots, copies and files of a session.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeek, AsyncSeekExt, AsyncWrite, AsyncWriteExt};

use crate::call;
use crate::client::{Client, call};
use crate::error::{Error, Result};
use crate::payload::{CHUNK_BYTES, frame};
use crate::retry::Retry;
use crate::session::{Change, Session, request_id};
use crate::stream::Worker;
use crate::v1;

impl Session {
    /// Saves the session on the server's disk, until the snapshot or the session is deleted.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn create_snapshot(&self) -> Result<v1::Snapshot> {
        let request = v1::CreateSnapshotRequest { name: self.name.clone(), request_id: request_id() };
        let answer = call!(self.client, session_service.create_snapshot(request))?;
        answer.snapshot.ok_or_else(|| Error::malformed("has no snapshot"))
    }

    /// Lists the session's snapshots, the latest first.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn list_snapshots(&self) -> Result<Vec<v1::Snapshot>> {
        let request = v1::ListSnapshotsRequest { name: self.name.clone() };
        Ok(call!(self.client, session_service.list_snapshots(request))?.snapshots)
    }

    /// Deletes a snapshot, `sessions/{id}/snapshots/{step}`.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn delete_snapshot(&self, name: &str) -> Result<()> {
        let request = v1::DeleteSnapshotRequest { name: name.to_owned(), request_id: request_id() };
        call!(self.client, session_service.delete_snapshot(request))?;
        Ok(())
    }

    /// Restores the session from one of its snapshots: all of it, or its parameters alone.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn restore_snapshot(&self, name: &str, weights_only: bool, change: Change) -> Result<v1::Session> {
        let request = v1::RestoreSnapshotRequest {
            name: name.to_owned(),
            request_id: change.request_id.unwrap_or_else(request_id),
            weights_only,
            expected_step: change.expected_step,
        };
        let answer = call!(self.client, session_service.restore_snapshot(request))?;
        answer.session.ok_or_else(|| Error::malformed("has no session"))
    }

    /// Creates a copy of a snapshot, or of the session if `snapshot` is `None`. `id` is the last part of
    /// the copy's name; chosen by the server if empty.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn fork(&self, snapshot: Option<&str>, id: &str) -> Result<Session> {
        let name = snapshot.unwrap_or(&self.name).to_owned();
        let request = v1::ForkSessionRequest { name, request_id: request_id(), session_id: id.to_owned() };
        let answer = call!(self.client, session_service.fork_session(request))?;
        Session::new(&self.client, answer.session, Worker::new(request_id(), 1))
    }

    /// Writes a snapshot, or the session if `snapshot` is `None`, as a safetensors file, and returns the
    /// step in the file. It is not bounded by the client's timeout, because only the server knows the
    /// length, and it is not repeated; after an error, a part of the file may have been written.
    ///
    /// # Errors
    /// If the call or the file fails.
    pub async fn export(&self, snapshot: Option<&str>, file: &mut (impl AsyncWrite + Unpin)) -> Result<i64> {
        let (outbox, mut inbox) = call::open(&self.client, "/optserve.v1.SessionService/ExportSnapshot", None);
        let name = snapshot.unwrap_or(&self.name).to_owned();
        let _ = outbox.try_send(frame(&v1::ExportSnapshotRequest { name })); // there is space for one buffer
        drop(outbox);
        let v1::ExportSnapshotResponse { header, mut chunk } = inbox.expect().await?;
        let header = header.ok_or_else(|| Error::malformed("has no header"))?;
        let mut missing = header.byte_count;
        while missing > 0 {
            let v1::Chunk { data, .. } = match chunk.take() {
                Some(chunk) => chunk,
                None => inbox.expect().await?.chunk.unwrap_or_default(),
            };
            file.write_all(&data).await.map_err(Error::file)?;
            missing = missing.saturating_sub(data.len() as u64);
        }
        file.flush().await.map_err(Error::file)?;
        Ok(header.step)
    }
}

impl Client {
    /// Creates a session from a file that [`Session::export`] wrote, on any server. `id` is the last part
    /// of its name; chosen by the server if empty.
    ///
    /// # Errors
    /// If the call or the file fails.
    pub async fn import_session(
        &self,
        file: &mut (impl AsyncRead + AsyncSeek + Unpin),
        id: &str,
    ) -> Result<Session> {
        let byte_count = file.seek(std::io::SeekFrom::End(0)).await.map_err(Error::file)?;
        let header = v1::ImportHeader { request_id: request_id(), session_id: id.to_owned(), byte_count };
        let header = frame(&v1::ImportSnapshotRequest { header: Some(header), chunk: None });
        let mut retry = Retry::new(self.timeout(), byte_count);
        loop {
            let attempt = self.send_file(file, header.clone(), byte_count, retry.remaining());
            match retry.bound(attempt).await {
                Ok(answer) => return Session::new(self, answer.session, Worker::new(request_id(), 1)),
                Err(error) => retry.pause(error).await?,
            }
        }
    }

    async fn send_file(
        &self,
        file: &mut (impl AsyncRead + AsyncSeek + Unpin),
        header: Bytes,
        byte_count: u64,
        timeout: Option<Duration>,
    ) -> Result<v1::ImportSnapshotResponse> {
        let (outbox, mut inbox) = call::open(self, "/optserve.v1.SessionService/ImportSnapshot", timeout);
        let sending = async {
            file.rewind().await.map_err(Error::file)?;
            let (mut offset, mut buffer) = (0, header);
            while outbox.send(buffer).await.is_ok() && offset < byte_count {
                let mut data = vec![0; CHUNK_BYTES.min(usize::try_from(byte_count - offset).unwrap_or(usize::MAX))];
                file.read_exact(&mut data).await.map_err(Error::file)?;
                let chunk = Some(v1::Chunk { byte_offset: offset, data: data.into() });
                offset += chunk.as_ref().map_or(0, |chunk| chunk.data.len() as u64);
                buffer = frame(&v1::ImportSnapshotRequest { header: None, chunk });
            }
            drop(outbox);
            std::future::pending().await // only the answer says how the call ended
        };
        tokio::select! {
            biased;
            answer = inbox.expect() => answer,
            error = sending => error,
        }
    }
}
