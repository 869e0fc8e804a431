/**
 * Opening a marker log: lock, recovery, and the parts put together.
 *
 * Everything is opened in one scope, whose finalizers run one after another, the last one first: the group commit is
 * closed before the files are, and the lock goes last.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq } from "@tidemark/core/Scalars"
import { toCommitSeq } from "@tidemark/core/Scalars"
import { FileLock } from "@tidemark/platform/FileLock"
import { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import { Vfs } from "@tidemark/platform/Vfs"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import type { Admission, HandOverWaiter, LogEnded } from "../GroupCommit.ts"
import * as GroupCommit from "../GroupCommit.ts"
import { MarkersDamaged } from "../MarkerErrors.ts"
import { isNoObject, type Marker, markerBytes, markersDirectory } from "../MarkerFormat.ts"
import type { MarkerCommit, MarkerLog, MarkerLogOptions, MarkerLogRecovery, OpenMarkerLogError } from "../MarkerLog.ts"
import type { MarkerFiles, MarkerScan } from "../MarkerStore.ts"
import { lockLog, tellHolder } from "./appendLogLock.ts"
import { ensureDirectory } from "./appendLogRecovery.ts"
import { openMarkerFiles } from "./markerFiles.ts"
import { makeReader } from "./markerReader.ts"
import { scanNewest, scanStream } from "./markerScan.ts"
import { makeMarkerSink } from "./markerSink.ts"
import { inScopeOfItsOwn } from "./ownScope.ts"

/** @internal */
export interface OpenMarkerLogOptions extends MarkerLogOptions {
  readonly perSegment: number
}

/** @internal */
export const openMarkerLog = (
  options: OpenMarkerLogOptions
): Effect.Effect<MarkerLog["Service"], OpenMarkerLogError, Vfs | FileLock | ProcessLiveness | Scope.Scope> =>
  inScopeOfItsOwn(openIn(options))

const openIn = Effect.fnUntraced(function*(
  options: OpenMarkerLogOptions
): Effect.fn.Return<
  MarkerLog["Service"],
  OpenMarkerLogError,
  Vfs | FileLock | ProcessLiveness | Scope.Scope
> {
  const { database, perSegment } = options
  const directory = markersDirectory(database)
  const vfs = yield* Vfs
  const lock = { vfs, fileLock: yield* FileLock, liveness: yield* ProcessLiveness, directory }
  yield* ensureDirectory(vfs, directory)
  yield* lockLog(lock)
  const scan = yield* scanAs(vfs, options)
  if (scan.damage !== undefined) {
    if (options.acceptLoss !== true) {
      return yield* new MarkersDamaged({ damage: scan.damage, last: scan.last?.seq })
    }
    yield* Effect.logWarning(`${directory}: the stream is kept up to its damage`, scan.damage.issue)
  }
  yield* tellHolder(lock)
  const tip = options.tip ?? scan.last?.seq ?? zeroSequence
  const files = yield* openMarkerFiles(vfs, { database, scan, tip, perSegment })
  if (scan.tornBytes > 0) {
    yield* Effect.logInfo(`${directory}: dropped a torn tail of ${scan.tornBytes} bytes behind ${files.last().seq}`)
  }

  let durable: CommitSeq = files.last().seq
  const sink = makeMarkerSink({
    name: directory,
    files,
    onDurable: (through) => {
      durable = through
    }
  })
  const engine = yield* GroupCommit.make(sink, options)
  const tipNow = () => durable
  return {
    database,
    directory,
    recovery: recoveryOf(scan, files),
    append: (commit) => append(engine, files, commit),
    tip: tipNow,
    flush: engine.flushNow,
    ended: engine.ended,
    ...makeReader(vfs, { segments: files.segments, through: tipNow, perSegment })
  }
})

const zeroSequence: CommitSeq = toCommitSeq(0n)

const scanAs = (vfs: Vfs["Service"], { database, maxBatchBytes = 0, perSegment, verify }: OpenMarkerLogOptions) => {
  if (verify === "all") return scanStream(vfs, database, { perSegment })
  // All that one batch can hold, and so all that a power loss can have hit.
  const bytes = Math.max(maxBatchBytes, GroupCommit.defaults.maxBatchBytes)
  return scanNewest(vfs, database, { perSegment, records: Math.ceil(bytes / markerBytes) })
}

const recoveryOf = (scan: MarkerScan, files: MarkerFiles): MarkerLogRecovery => ({
  cases: [
    ...scan.tornBytes > 0 ? ["RC-14" as const] : [],
    ...scan.temporaries.length > 0 ? ["RC-25" as const] : [],
    ...scan.damage === undefined ? [] : ["RC-26" as const]
  ],
  isNew: scan.segments.length === 0,
  droppedBytes: scan.tornBytes,
  damage: scan.damage,
  verifiedFrom: scan.verifiedFrom,
  last: scan.last?.seq,
  next: files.next()
})

const append = (
  engine: GroupCommit.GroupCommit,
  files: MarkerFiles,
  commit: MarkerCommit
): Effect.Effect<Marker, LogEnded> =>
  Effect.callback((resume) => {
    const handOver = new MarkerHandOver(engine, files, commit, resume)
    const stepBack = engine.admit(handOver)
    return handOver.isInLine ? Effect.sync(stepBack) : undefined
  })

/** A request to hand over: first it stands in line for room, then its writer waits until it is durable. */
class MarkerHandOver implements Admission, HandOverWaiter {
  readonly length = markerBytes
  readonly mode = "durable"
  isInLine = true
  private readonly engine: GroupCommit.GroupCommit
  private readonly files: MarkerFiles
  private readonly commit: MarkerCommit
  private readonly resume: (exit: Exit.Exit<Marker, LogEnded>) => void
  private marker: Marker | undefined

  constructor(
    engine: GroupCommit.GroupCommit,
    files: MarkerFiles,
    commit: MarkerCommit,
    resume: (exit: Exit.Exit<Marker, LogEnded>) => void
  ) {
    this.engine = engine
    this.files = files
    this.commit = commit
    this.resume = resume
  }

  /** Called by the engine when there is room. What is thrown in here is this writer's defect, nobody else's. */
  enter(): void {
    this.isInLine = false
    const { capsule, proof } = this.commit
    try {
      invariant(!isNoObject(capsule), "a commit has a capsule")
      this.engine.enqueueUnsafe(markerBytes, (target, view, offset) => {
        this.marker = this.files.encodeNext(capsule, proof, target, view, offset)
      }, this)
    } catch (defect) {
      this.resume(Exit.die(defect))
    }
  }

  refuse(ended: LogEnded): void {
    this.isInLine = false
    this.resume(Exit.fail(ended))
  }

  succeed(): void {
    const { marker } = this
    invariant(marker !== undefined, "a writer is woken after its marker was handed over")
    this.resume(Exit.succeed(marker))
  }

  fail(ended: LogEnded): void {
    this.resume(Exit.fail(ended))
  }
}
