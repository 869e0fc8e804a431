/** An open parallel WAL with the few steps that its tests share. Nothing happens by itself unless a test asks for it. */
import type { CommitSeq } from "@tidemark/core/Scalars"
import { PageSize, toCommitSeq, toPageNumber, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import type { FileLock } from "@tidemark/platform/FileLock"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import type { Vfs } from "@tidemark/platform/Vfs"
import { Context, Effect, Exit, type Fiber, Layer, Logger, Metric, References, Scope, Tracer } from "effect"
import { CommitLog, type LogCommit } from "../../src/CommitLog.ts"
import type { HandOverWaiter, LogEnded } from "../../src/GroupCommit.ts"
import * as ParallelWal from "../../src/ParallelWal.ts"
import { epochOfSegmentName } from "../../src/SegmentFormat.ts"
import { filledPage } from "./pages.ts"
import { memoryPath, prepareDisk } from "./sqliteWal.ts"

export const pageSize = PageSize.make(512)

/** Bytes that a record counts for in its lane, and that it takes in the segment. */
export const accountedRecord = 48 + 512
export const encodedRecord = 4 + 8 + 4 + 8 + 4 + 8 + 1 + 8 + 4 + 4 + 512 + 4

export interface OpenedParallel {
  readonly wal: ParallelWal.ParallelWal["Service"]
  readonly log: CommitLog["Service"]
  readonly close: Effect.Effect<void>
}

export type Options = Partial<ParallelWal.ParallelWalOptions>

/** What happens only when a test says so: cycles, checkpoints, decisions. */
export const byHand: Options = {
  create: { pageSize },
  ticker: false,
  controller: false,
  autoCheckpointFrames: 0,
  checkpointOnClose: false
}

/** Opens a database on a platform, in a scope of its own that ends with the caller's or at `close`. */
export const openParallelOn = <E>(
  platform: Layer.Layer<Vfs | FileLock, E>,
  options: ParallelWal.ParallelWalOptions
): Effect.Effect<OpenedParallel, E | ParallelWal.OpenParallelError, Scope.Scope> =>
  Effect.gen(function*() {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const context = yield* Layer.buildWithScope(
      Layer.fresh(Layer.provide(ParallelWal.layer(options), Layer.fresh(platform))),
      scope
    ).pipe(Effect.onError(() => Scope.close(scope, Exit.void)))
    return {
      wal: Context.get(context, ParallelWal.ParallelWal),
      log: Context.get(context, CommitLog),
      close: Scope.close(scope, Exit.void)
    }
  })

/** The same on a memory disk, {@link byHand}. */
export const openByHand = (
  disk: MemoryDisk,
  options: Options = {}
): Effect.Effect<OpenedParallel, ParallelWal.OpenParallelError, Scope.Scope> =>
  openParallelOn(MemoryVfs.layerDisk(disk), { database: memoryPath, ...byHand, ...options })

/** A disk on which every operation is done at once. */
export const emptyDisk = (): MemoryDisk => prepareDisk(MemoryDisk.make({ async: false }))

/** A disk on which every operation lets the event loop turn once. */
export const slowDisk = (): MemoryDisk => prepareDisk(MemoryDisk.make())

/** A transaction that writes these pages, each told apart by its stamp; 4 pages unless it is said otherwise. */
export const batchOf = (
  id: number | bigint,
  pages: Readonly<Record<number, number>>,
  databasePages: number | undefined = 4
): ParallelWal.PageBatch => ({
  token: { id: toTxnId(BigInt(id)), epoch: TxnEpoch.make(0) },
  records: Object.entries(pages).map(([page, stamp]) => ({
    page: toPageNumber(Number(page)),
    after: imageOf(Number(page), stamp)
  })),
  databasePages
})

export const imageOf = (page: number, stamp: number): Uint8Array => filledPage(pageSize, page, stamp)

/** What a coordinator hands over: one page, with its number for a stamp. */
const commitOf = (page: number, seq: CommitSeq): LogCommit => ({
  token: { id: toTxnId(seq), epoch: TxnEpoch.make(0) },
  seq,
  pages: [toPageNumber(page)],
  image: () => imageOf(page, Number(seq)),
  databasePages: 4
})

/** Hands a commit of one page over as a coordinator does, and tells what becomes of it. */
export const handOver = (
  { log }: Pick<OpenedParallel, "log">,
  seq: bigint,
  told: (what: string) => void,
  more: { readonly pages?: number; readonly onDurable?: () => void } = {}
): () => void => {
  const waiter: HandOverWaiter = {
    mode: "durable",
    succeed: () => {
      told(`${seq} durable`)
      more.onDurable?.()
    },
    fail: (ended: LogEnded) => told(`${seq} ${ended._tag}`)
  }
  return log.admit({
    length: log.commitBytes(more.pages ?? 1),
    enter: () => {
      told(`${seq} entered`)
      log.appendUnsafe(commitOf(2, toCommitSeq(seq)), waiter)
    },
    refuse: (ended) => told(`${seq} refused ${ended._tag}`)
  })
}

/** The bytes of a page as it is visible now. */
export const readPage = ({ log }: Pick<OpenedParallel, "log">, page: number): Uint8Array => {
  const reader = log.openReader()
  try {
    return reader.readSync(toPageNumber(page))
  } finally {
    reader.release()
  }
}

/** The stamp of a page as it is visible now. */
export const stampOf = (opened: Pick<OpenedParallel, "log">, page: number): number =>
  Buffer.from(readPage(opened, page)).readUInt32BE(4)

/** The epochs that have a segment on the disk. */
export const segmentsOn = (disk: MemoryDisk): ReadonlyArray<bigint> =>
  disk.files.flatMap((path) => {
    const epoch = epochOfSegmentName("test.db", path.slice(path.lastIndexOf("/") + 1))
    return epoch === undefined ? [] : [epoch]
  })

export const isWaiting = (fiber: Fiber.Fiber<unknown, unknown>): boolean => fiber.pollUnsafe() === undefined

/** What a metric says about the log of {@link memoryPath}. */
export const ofLog = <Input, State>(metric: Metric.Metric<Input, State>): Effect.Effect<State> =>
  Metric.value(Metric.withAttributes(metric, { log: memoryPath }))

/** Metrics of one test alone. */
export const ownMetrics = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(effect, Metric.MetricRegistry, new Map())

export interface Recorded {
  readonly spans: ReadonlyArray<Tracer.NativeSpan>
  readonly lines: ReadonlyArray<{
    readonly message: string
    readonly level: string
    readonly annotations: Readonly<Record<string, unknown>>
  }>
}

/** Runs an effect with what it traces and logs kept. */
export const recording = <A, E, R>(
  use: (recorded: Recorded) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const spans: Array<Tracer.NativeSpan> = []
    const lines: Array<Recorded["lines"][number]> = []
    const logger = Logger.make(({ fiber, logLevel, message }) => {
      lines.push({
        message: Array.isArray(message) ? String(message[0]) : String(message),
        level: logLevel,
        annotations: { ...fiber.getRef(References.CurrentLogAnnotations) }
      })
    })
    const tracer = Tracer.make({
      span: (options) => {
        const span = new Tracer.NativeSpan(options)
        spans.push(span)
        return span
      }
    })
    return use({ spans, lines }).pipe(Effect.provide(Logger.layer([logger])), Effect.withTracer(tracer))
  })
