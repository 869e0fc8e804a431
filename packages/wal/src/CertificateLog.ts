/**
 * The certificate log as a file: read as a whole at the start, then open for appending. Which bytes it holds, and what
 * of them counts after a crash, stands in `CertificateFormat.ts`.
 *
 * **Details**
 *
 * 1. A log appears under its name whole and durable, or not at all: a new one, and one that replaces another, is written
 *    beside it, synced and renamed. A header that does not check is therefore damage, never a crash.
 * 2. What a start found is made durable before anything is appended to it: the part that counts is written once more
 *    (after a failed sync the system may show bytes that the disk does not have), a torn end is overwritten by zeros.
 * 3. A certificate whose append succeeded survives a power loss, unless the policy is `"off"`. One append runs at a time.
 * 4. After a failed append nothing is known about the file any more. Every later call is a defect: the owner stops.
 * 5. Only certificates that follow the one before (PW-29) are appended, and a log is replaced only by one that starts
 *    behind all of its certificates: none is lost, no sequence is certified twice.
 *
 * **Gotchas**
 *
 * With the policy `"off"` a crash of the system may leave a later certificate and take an earlier one. That looks like
 * damage (RC-10), and the next start refuses it: who chooses this policy trades more than the last commits. A crash of
 * the process alone loses nothing.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq } from "@tidemark/core/Scalars"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import { directoryOf, replaceFile } from "./AtomicFile.ts"
import type { Certificate, CertificateLogHeader, CertificateScan } from "./CertificateFormat.ts"
import {
  certificateLogHeaderBytes,
  certificatesPath,
  checksumOf,
  databaseIdBytes,
  encodeCertificate,
  encodeHeader,
  scanCertificates
} from "./CertificateFormat.ts"
import { rewrite } from "./internal/rewrite.ts"
import { zeros } from "./internal/zeroFill.ts"
import type { SyncPolicy } from "./SegmentStore.ts"

/**
 * The file is always a multiple of this long, zeros behind its certificates: a sync that changes no size is cheaper.
 * Some 700 certificates of eight lanes.
 */
const growthBytes = 64 * 1024

/**
 * The certificate log of a database, open for appending.
 *
 * @category models
 * @since 0.1.0
 */
export interface CertificateLog {
  /** The last certificate in the file; `undefined` while it is empty. */
  readonly last: () => Certificate | undefined
  /**
   * Appends a certificate, and syncs it unless the policy is `"off"`. One that does not follow the last (a gap, an
   * overlap, a certificate epoch that does not grow, a segment epoch that falls) is a defect, and so is every call after
   * a failure. Runs to its end when it is interrupted.
   */
  readonly append: (certificate: Certificate) => Effect.Effect<void, VfsError>
  /**
   * Replaces the file by an empty one whose first interval starts at `through + 1`, durably and with any policy: for a
   * checkpoint that has brought everything up to `through` into the database file and has written its mark. Runs to its
   * end when it is interrupted.
   *
   * A failure before the new file has the name leaves the old one in use: it can be replaced later. A failure after it
   * is final, as that of an append: {@link CertificateLog.isUsable} tells which.
   */
  readonly replace: (through: CommitSeq) => Effect.Effect<void, VfsError>
  /** Bytes of the header and the certificates, without the zeros behind them. */
  readonly bytes: () => number
  /** Whether no final failure has happened. */
  readonly isUsable: () => boolean
}

/**
 * Reads the certificate log of a database; `undefined` when there is none.
 *
 * @category reading
 * @since 0.1.0
 */
export const readCertificateLog = (
  vfs: Vfs["Service"],
  database: string
): Effect.Effect<CertificateScan | undefined, VfsError> =>
  Effect.gen(function*() {
    const file = yield* vfs.open(certificatesPath(database), { access: "read" })
    const buffer = new Uint8Array(yield* file.size)
    const length = yield* file.read(buffer, 0)
    return scanCertificates(buffer.subarray(0, length))
  }).pipe(
    Effect.scoped,
    Effect.catchIf(
      (error) => error.operation === "open" && error.code === "ENOENT",
      () => Effect.succeed(undefined)
    )
  )

/**
 * Opens the certificate log of a database for appending: what `scan` found there, or a new one when it found no file.
 *
 * **Details**
 *
 * `through` is the last commit that needs no certificate: the one that the checkpoint mark names, or the tip at which
 * this kind of log starts. An empty log goes on with `through + 1`, another one behind its last certificate. A log that
 * ends before `through`, because a log of another kind has brought the database further, is replaced by an empty one.
 *
 * Everything is durable when it succeeds, the name of the file included, so that the first segment may be written.
 *
 * **Gotchas**
 *
 * A scan with damage is refused before it comes here; given nonetheless, it is a defect, as is no scan where there is a
 * file. The caller holds the lock of the database.
 *
 * @category constructors
 * @since 0.1.0
 */
export const openCertificateLog = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  options: {
    readonly database: string
    readonly policy: SyncPolicy
    readonly scan: CertificateScan | undefined
    readonly through: CommitSeq
  }
): Effect.fn.Return<CertificateLog, VfsError, Scope.Scope> {
  const { policy, scan, through } = options
  const path = certificatesPath(options.database)
  const files: Files = { vfs, path, open: openIn(yield* Effect.scope, vfs, path) }
  const last = scan?.certificates.at(-1)?.certificate
  const before = { ...last, high: last === undefined || last.high < through ? through : last.high }
  if (scan === undefined) {
    invariant((yield* vfs.identify(path)) === undefined, "a certificate log that is there is read before it is opened")
  }
  const { databaseId } = scan === undefined ? { databaseId: yield* randomBytes(databaseIdBytes) } : headerOf(scan)
  if (scan === undefined || (last !== undefined && last.high < through)) {
    const chain = yield* putEmpty(files, databaseId)
    return makeLog(files, policy, databaseId, emptyState(yield* files.open, chain, before))
  }
  const opened = yield* files.open
  yield* writeBack(vfs, opened.file, scan)
  return makeLog(files, policy, databaseId, {
    ...opened,
    fileBytes: yield* opened.file.size,
    end: scan.validBytes,
    chain: scan.chain,
    before,
    last
  })
})

const headerOf = ({ damage, header }: CertificateScan): CertificateLogHeader => {
  invariant(header !== undefined && damage === undefined, "a damaged certificate log is refused, not opened")
  return header
}

const randomBytes = (count: number): Effect.Effect<Uint8Array> =>
  Effect.map(
    Effect.replicateEffect(Random.nextIntBetween(0, 255), count),
    (bytes) => Uint8Array.from(bytes)
  )

// -- the file ---------------------------------------------------------------------------------------------------------

interface OpenedFile {
  readonly file: VfsFile
  readonly scope: Scope.Closeable
}

interface Files {
  readonly vfs: Vfs["Service"]
  readonly path: string
  readonly open: Effect.Effect<OpenedFile, VfsError>
}

/** Opens the file in a scope of its own: it is closed when another one has taken its name. */
const openIn = (parent: Scope.Scope, vfs: Vfs["Service"], path: string): Files["open"] =>
  Effect.uninterruptible(Effect.flatMap(Scope.fork(parent), (scope) =>
    vfs.open(path, { access: "readWrite" }).pipe(
      Scope.provide(scope),
      Effect.map((file) => ({ file, scope })),
      Effect.onError(() => Scope.close(scope, Exit.void))
    )))

/** Puts an empty log in the place of whatever was there (invariant 1); answers the checksum of its header. */
const putEmpty = Effect.fnUntraced(function*(
  { path, vfs }: Files,
  databaseId: Uint8Array
): Effect.fn.Return<number, VfsError> {
  const header = encodeHeader({ databaseId, createdUnixNanos: yield* Clock.currentTimeNanos })
  const bytes = new Uint8Array(growthBytes)
  bytes.set(header)
  yield* replaceFile(vfs, path, bytes)
  return checksumOf(header)
})

/** Invariant 2. The name too: who gave it may have been killed before it was durable. */
const writeBack = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  file: VfsFile,
  { tornBytes, validBytes }: CertificateScan
): Effect.fn.Return<void, VfsError> {
  yield* rewrite(file, 0, validBytes)
  if (tornBytes > 0) yield* file.write(zeros(tornBytes), validBytes)
  yield* file.syncFull
  yield* vfs.syncDirectory(directoryOf(file.path))
})

// -- appending --------------------------------------------------------------------------------------------------------

/** What the next certificate has to follow; no epochs while none is known. */
type Predecessor = Pick<Certificate, "high"> & Partial<Pick<Certificate, "certificateEpoch" | "segmentEpoch">>

interface State extends OpenedFile {
  readonly fileBytes: number
  /** Where the next certificate goes. */
  readonly end: number
  /** The checksum that it continues. */
  readonly chain: number
  readonly before: Predecessor
  readonly last: Certificate | undefined
}

const emptyState = (opened: OpenedFile, chain: number, before: Predecessor): State => ({
  ...opened,
  fileBytes: growthBytes,
  end: certificateLogHeaderBytes,
  chain,
  before,
  last: undefined
})

/** Invariant 5. */
const checkFollows = (before: Predecessor, { certificateEpoch, low, segmentEpoch }: Certificate): void => {
  invariant(low === before.high + 1n, "an interval starts where the one before ends")
  invariant(
    before.certificateEpoch === undefined || certificateEpoch > before.certificateEpoch,
    "certificate epochs grow"
  )
  invariant(before.segmentEpoch === undefined || segmentEpoch >= before.segmentEpoch, "segment epochs never fall")
}

const makeLog = (files: Files, policy: SyncPolicy, databaseId: Uint8Array, opened: State): CertificateLog => {
  let state = opened
  let phase: "idle" | "busy" | "failed" = "idle"

  const begin = () => {
    invariant(phase !== "failed", "nothing is certified after a failure")
    invariant(phase === "idle", "one change of the certificate log runs at a time")
    phase = "busy"
  }

  const append = (certificate: Certificate) =>
    Effect.uninterruptible(Effect.suspend(() => {
      checkFollows(state.before, certificate)
      const { chain, end, file, fileBytes } = state
      const bytes = encodeCertificate(certificate, chain)
      const newEnd = end + bytes.length
      const newFileBytes = newEnd <= fileBytes ? fileBytes : Math.ceil(newEnd / growthBytes) * growthBytes
      const buffers = newFileBytes === fileBytes ? [bytes] : [bytes, ...zeros(newFileBytes - newEnd)]
      begin()
      const written = policy === "off" ? file.write(buffers, end) : file.writeAndSyncData(buffers, end)
      return Effect.onExit(written, (exit) =>
        Effect.sync(() => {
          phase = Exit.isSuccess(exit) ? "idle" : "failed"
          if (Exit.isFailure(exit)) return
          state = {
            ...state,
            fileBytes: newFileBytes,
            end: newEnd,
            chain: checksumOf(bytes),
            before: certificate,
            last: certificate
          }
        }))
    }))

  const replace = Effect.fnUntraced(function*(through: CommitSeq): Effect.fn.Return<void, VfsError> {
    invariant(state.before.high <= through, "no certificate above the checkpoint is dropped")
    begin()
    const { before, scope } = state
    const chain = yield* Effect.tapError(putEmpty(files, databaseId), (error) =>
      Effect.sync(() => {
        // Only when that sync failed the new file may have the name already, and what is appended to the old one is lost.
        phase = error.operation === "syncDirectory" ? "failed" : "idle"
      }))
    const opened = yield* Effect.tapError(files.open, () => Effect.sync(() => phase = "failed"))
    state = emptyState(opened, chain, { ...before, high: through })
    phase = "idle"
    yield* Scope.close(scope, Exit.void)
  }, Effect.uninterruptible)

  return {
    append,
    bytes: () => state.end,
    isUsable: () => phase !== "failed",
    last: () => state.last,
    replace
  }
}
