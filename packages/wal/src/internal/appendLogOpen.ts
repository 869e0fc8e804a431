/**
 * Opening a log: lock, recovery, and the parts put together.
 *
 * Everything is opened in one scope, whose finalizers run one after another, the last one first: the group commit is
 * closed before the files are, the readers are told after that, and the lock goes last.
 */
import { invariant } from "@tidemark/core/Invariant"
import { toLsn } from "@tidemark/core/Scalars"
import { FileLock } from "@tidemark/platform/FileLock"
import { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import { Vfs } from "@tidemark/platform/Vfs"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import type { AppendLog, AppendLogOptions, LogRecovery, OpenError } from "../AppendLog.ts"
import {
  batchChecksum,
  commitFrameBytes,
  logIdBytes,
  maxPayloadBytes,
  recordFrameBytes,
  segmentHeaderBytes,
  writeCommitFrame,
  writePadFrame
} from "../AppendLogFormat.ts"
import type { ScanReport } from "../AppendLogScan.ts"
import type { GroupCommitSink, LogEnded } from "../GroupCommit.ts"
import * as GroupCommit from "../GroupCommit.ts"
import { LogClosed } from "../LogErrors.ts"
import { lockLog, tellHolder } from "./appendLogLock.ts"
import { ensureDirectory, recoverLog } from "./appendLogRecovery.ts"
import type { Segment } from "./appendLogSegments.ts"
import { AppendLogSegments } from "./appendLogSegments.ts"
import { makeStreams } from "./appendLogStreams.ts"
import { makeTruncation } from "./appendLogTruncation.ts"
import { AppendLogWriter } from "./appendLogWriter.ts"
import { ChangeSignal } from "./changeSignal.ts"
import { inScopeOfItsOwn } from "./ownScope.ts"

/** @internal */
export interface OpenOptions extends AppendLogOptions {
  readonly segmentBytes: number
  readonly maxRecordBytes: number
  readonly preallocateBytes: number
}

/** @internal */
export const openLog = (
  options: OpenOptions
): Effect.Effect<AppendLog["Service"], OpenError, Vfs | FileLock | ProcessLiveness | Scope.Scope> =>
  inScopeOfItsOwn(openIn(options))

const openIn = Effect.fnUntraced(function*(
  options: OpenOptions
): Effect.fn.Return<AppendLog["Service"], OpenError, Vfs | FileLock | ProcessLiveness | Scope.Scope> {
  const { directory, maxRecordBytes, preallocateBytes, segmentBytes } = options
  invariant(Number.isSafeInteger(segmentBytes) && segmentBytes > segmentHeaderBytes, "a segment holds its header")
  invariant(
    Number.isSafeInteger(maxRecordBytes) && maxRecordBytes >= 1 && maxRecordBytes <= maxPayloadBytes,
    "maxRecordBytes is 1 ... 2^32 - 1"
  )
  invariant(Number.isSafeInteger(preallocateBytes) && preallocateBytes >= 0, "preallocateBytes is not negative")
  const vfs = yield* Vfs
  const lock = { vfs, fileLock: yield* FileLock, liveness: yield* ProcessLiveness, directory }
  const context = Context.add(yield* Effect.context<never>(), Metric.CurrentMetricAttributes, { log: directory })

  yield* ensureDirectory(vfs, directory)
  yield* lockLog(lock)
  const report = yield* recoverLog(vfs, directory, tellHolder(lock))
  if (report.tornTail !== undefined) {
    yield* Effect.logInfo(`${directory}: dropped a torn tail of ${report.tornTail.bytes} bytes at ${report.endLsn}`)
  }

  const progress = new ChangeSignal()
  const handOvers = new ChangeSignal()
  let isClosed = false
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      isClosed = true
      progress.notify()
      handOvers.notify()
    })
  )

  const logId = report.logId ?? (yield* randomBytes(logIdBytes))
  const scope = yield* Scope.fork(yield* Effect.scope, "sequential")
  const segments = new AppendLogSegments({
    vfs,
    directory,
    logId,
    segmentBytes,
    preallocateBytes,
    scope,
    context,
    onLostSync: (error) => engine.poison(Cause.fail(error)),
    isPoisoned: () => isPoisoned()
  })
  yield* report.segments.length === 0 ? segments.createFirst : segments.resume(report.segments.map(segmentOf))

  // Runs when the group commit is closed, and before the lock goes: whoever opens the log next must find what it lists.
  let awaitTruncation = Effect.void
  yield* Effect.addFinalizer(() => Effect.suspend(() => awaitTruncation))

  const engine = yield* GroupCommit.make(
    makeSink(directory, logId, segments, {
      onDurable: () => progress.notify(),
      onPoisoned: () => {
        segments.stopPreparing()
        progress.notify()
        handOvers.notify()
      }
    }),
    { ...options, initialLsn: report.endLsn, maxRecordBytes: recordFrameBytes(maxRecordBytes) }
  )
  // Runs when the group commit is closed, before the files are.
  yield* Scope.addFinalizer(scope, Effect.suspend(() => isPoisoned() ? Effect.void : segments.discardPrepared))

  const isPoisoned = () => engine.ended()?._tag === "WalPoisoned"
  const closed = (): LogEnded | undefined => isClosed ? engine.ended() ?? new LogClosed({ log: directory }) : undefined
  const over = (): LogEnded | undefined => isPoisoned() ? engine.ended() : closed()
  const durable = () => engine.watermarks().durable
  const watermarks = () => ({ firstKept: segments.firstKept, ...engine.watermarks() })

  // Of the last batch only its mark is known to be no record.
  const lastRecordEnd = Math.max(report.firstLsn, report.endLsn - commitFrameBytes)
  const writer = new AppendLogWriter(engine, directory, maxRecordBytes, lastRecordEnd)
  writer.onHandOver = () => handOvers.notify()
  const truncation = makeTruncation({ vfs, directory, engine, segments, writer, onTruncated: () => progress.notify() })
  awaitTruncation = truncation.awaitTruncation
  return {
    directory,
    logId,
    recovery: recoveryOf(report),
    append: writer.append,
    appendAll: writer.appendAll,
    appendTransaction: writer.appendTransaction,
    reserve: writer.reserve,
    commitAtLeast: (lsn, until = "durable") => engine.commitAtLeast(lsn, until),
    flush: engine.flushNow,
    ended: engine.ended,
    watermarks,
    truncateBefore: truncation.truncateBefore,
    rotate: truncation.rotate,
    ...makeStreams({ vfs, directory, logId, segments, durable, engine, watermarks, progress, handOvers, closed, over })
  }
})

const makeSink = (
  directory: string,
  logId: Uint8Array,
  segments: AppendLogSegments,
  hooks: Pick<GroupCommitSink, "onDurable" | "onPoisoned">
): GroupCommitSink => ({
  name: directory,
  write: (buffers, lsn) => segments.write(buffers, lsn),
  writeAndSync: (buffers, lsn, background) => segments.writeAndSync(buffers, lsn, background),
  sync: segments.sync,
  pad: writePadFrame,
  seal: {
    bytes: commitFrameBytes,
    write: (buffers, lsn, earlierIsDurable) => {
      const last = buffers.at(-1)
      invariant(last !== undefined && last.length >= commitFrameBytes, "a batch ends with room for its mark")
      let bytes = -commitFrameBytes
      for (const buffer of buffers) bytes += buffer.length
      const view = new DataView(last.buffer, last.byteOffset, last.byteLength)
      const checksum = batchChecksum(logId, lsn, buffers, bytes)
      writeCommitFrame(view, last.length - commitFrameBytes, lsn, earlierIsDurable, checksum)
    }
  },
  ...hooks
})

const randomBytes = (count: number): Effect.Effect<Uint8Array> =>
  Effect.map(
    Effect.replicateEffect(Random.nextIntBetween(0, 255), count),
    (bytes) => Uint8Array.from(bytes)
  )

const segmentOf = ({ header, path, startLsn }: ScanReport["segments"][number]): Segment => {
  invariant(header !== undefined, "a log whose segment has no header is refused")
  return { index: header.segmentIndex, startLsn, path }
}

const recoveryOf = (report: ScanReport): LogRecovery => ({
  cases: [
    ...report.tornTail === undefined ? [] : ["RC-12" as const],
    ...report.temporaries.length === 0 ? [] : ["RC-25" as const]
  ],
  isNew: report.segments.length === 0,
  droppedBytes: report.tornTail?.bytes ?? 0,
  segments: Math.max(1, report.segments.length),
  firstKept: report.firstLsn,
  end: toLsn(report.endLsn),
  swept: report.temporaries,
  foreign: report.foreign
})
