/**
 * Puts the parts of a parallel WAL together: lanes, epochs, ticker, readers, checkpoints, and the two services over them.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { PageNumber } from "@tidemark/core/Scalars"
import type { FileLock } from "@tidemark/platform/FileLock"
import { Vfs } from "@tidemark/platform/Vfs"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Metric from "effect/Metric"
import type * as Scope from "effect/Scope"
import type { CommitLog, LogCommit } from "../CommitLog.ts"
import type { HandOverWaiter, LogEnded } from "../GroupCommit.ts"
import { Exhausted } from "../LogErrors.ts"
import type {
  LaneWriter,
  OpenParallelError,
  PageBatch,
  ParallelWal,
  ParallelWalOptions,
  SubmittedBatch
} from "../ParallelWal.ts"
import { controlDefaults, type ControlSurface } from "../ParallelWalControl.ts"
import { Controller } from "../ParallelWalController.ts"
import { EpochBusy, LaneFull } from "../ParallelWalErrors.ts"
import * as SegmentFormat from "../SegmentFormat.ts"
import { writeSegment } from "../SegmentStore.ts"
import { forkAutoCheckpoint } from "./autoCheckpoint.ts"
import { markDatabase } from "./databaseMark.ts"
import { type BatchInEpoch, EpochEncoder } from "./epochEncoder.ts"
import { EpochLog } from "./epochLog.ts"
import { EpochTicker } from "./epochTicker.ts"
import { Fallback } from "./fallback.ts"
import { LaneAssignment, laneCount } from "./laneAssignment.ts"
import { Lanes } from "./lanes.ts"
import { LaterLog } from "./laterLog.ts"
import { openParallel } from "./openParallel.ts"
import { ParallelCheckpoint } from "./parallelCheckpoint.ts"
import { parallelDefaults as defaults } from "./parallelDefaults.ts"
import { SegmentReaders } from "./segmentReaders.ts"
import { WriterSections } from "./writerSections.ts"

/** @internal */
export const makeParallelWal = Effect.fnUntraced(function*(
  options: ParallelWalOptions
): Effect.fn.Return<
  { readonly parallelWal: ParallelWal["Service"]; readonly commitLog: CommitLog["Service"] },
  OpenParallelError,
  Vfs | FileLock | Scope.Scope
> {
  const vfs = yield* Vfs
  const clock = yield* Clock.Clock
  const { database } = options
  const control: ControlSurface = { ...controlDefaults, ...options.control }
  const interval = Duration.toMillis(Duration.fromInputUnsafe(options.epochInterval ?? defaults.epochInterval))
  const policy = options.syncPolicy ?? defaults.syncPolicy
  const overflowPolicy = options.overflowPolicy ?? defaults.overflowPolicy
  const laneCapacityBytes = options.laneCapacityBytes ?? defaults.laneCapacityBytes
  invariant(interval > 0, "an epoch lasts longer than no time")

  const { databaseFile, examination, index, pageSize, ...opened } = yield* openParallel(options)
  const context = Context.add(yield* Effect.context<never>(), Metric.CurrentMetricAttributes, { log: database })
  const slots = Math.max(1, Math.min(maxLanes, options.slots ?? defaults.slots))
  const lanesInUse = yield* clampedLanes(control, slots)
  const lanes = new Lanes<BatchInEpoch>({
    // More of them may come into use later.
    laneCount: slots,
    laneCapacityBytes,
    overflowPolicy,
    overflowLimitBytes: options.overflowLimitBytes ?? defaults.overflowLimitBytes
  })
  const assignment = new LaneAssignment(lanesInUse)
  const fallback = new Fallback()
  const laterLog = new LaterLog()
  const encoder = new EpochEncoder({ control, fallback, laterLog, pageSize, context })
  const log = new EpochLog({
    database,
    epoch: opened.epoch,
    published: opened.published,
    certificateEpoch: opened.certificateEpoch,
    segmentEpoch: opened.segmentEpoch,
    isMarked: opened.isMarked,
    maxQueuedBytes: options.maxQueuedBytes ?? defaults.maxQueuedBytes,
    lanes,
    index,
    encoder,
    laterLog,
    recoveryEpoch: examination.highestEpoch,
    files: {
      markDatabase: markDatabase(databaseFile, 3),
      writeSegment: (epoch, attempt, buffers) =>
        writeSegment(vfs, { database, epoch, attempt, policy, buffers, background: true }),
      certify: opened.certificates.append,
      // The segment, its directory, the certificate.
      syncsPerEpoch: policy === "off" ? 0 : 3
    },
    clock,
    context
  })
  const controller = options.controller === false ? undefined : new Controller({
    policy: { maxFlushDelayMillis: control.maxFlushDelayMillis, maxLanes: slots }
  })
  const ticker = new EpochTicker({
    log,
    clock,
    intervalMillis: interval,
    maxDelayMillis: control.maxFlushDelayMillis,
    maxBatchBytes: control.maxBatchBytes,
    controller,
    lanes: assignment,
    // What an operator has said stays.
    maxLanes: control.laneCount === undefined && control.mode !== "conservative" ? slots : undefined
  })
  const readers = new SegmentReaders(vfs, databaseFile, pageSize, index)
  const checkpoint = new ParallelCheckpoint({
    vfs,
    database,
    databaseFile,
    pageSize,
    log,
    readers,
    certificates: opened.certificates,
    maxCertificateBytes: defaults.maxCertificateBytes,
    removable: examination.uncertified.map(({ path }) => path)
  })
  if (examination.isReadOnly) yield* checkpoint.acceptLoss(opened)

  const recovered = {
    // What was settled at the start is in the database file, and nothing of it is told below.
    base: index.segments.length === 0 ? log.published.commitSeq : examination.base,
    tip: log.published.commitSeq,
    pages: Array.from(index.newestVersions())
  }
  const close = checkpoint.close(options.checkpointOnClose !== false)
  // The ticker too may have been started in a scope that lives longer.
  yield* Effect.addFinalizer(() => ticker.stop.pipe(Effect.andThen(log.close), Effect.andThen(close)))
  if (options.ticker !== false) yield* Effect.orDie(ticker.start)
  let attemptedAt = -index.records
  let failuresSeen = 0
  yield* forkAutoCheckpoint({
    threshold: options.autoCheckpointFrames ?? defaults.autoCheckpointFrames,
    // What cannot be written for want of room can be after a checkpoint has let segments go: one round for each attempt.
    sinceLastRound: () =>
      log.failedAttempts > failuresSeen && index.segments.length > 0 ? Infinity : log.recordsPublished - attemptedAt,
    onPublished: (listener) => {
      log.onPublished = listener
    },
    round: Effect.suspend(() => {
      attemptedAt = log.recordsPublished
      failuresSeen = log.failedAttempts
      return checkpoint.automatic
    })
  })

  // Sequences are given out by one party: a coordinator, or this log.
  let owner: "coordinator" | "writers" | undefined
  const own = (by: "coordinator" | "writers") => {
    invariant(
      owner === undefined || owner === by,
      "the sequences of a log are given out by its coordinator or by itself"
    )
    owner = by
  }
  const recordBytes = SegmentFormat.recordBytes(0, pageSize, true)
  const sections = new WriterSections<LaneWriter>()

  const submit = (lane: LaneWriter["lane"], batch: PageBatch): Effect.Effect<SubmittedBatch, LaneFull | LogEnded> =>
    Effect.callback<SubmittedBatch, LaneFull | LogEnded>((resume) => {
      own("writers")
      const images = new Map<PageNumber, Uint8Array>()
      for (const { after, isAborted, page } of batch.records) {
        // What it waits for in line must not be the log's trouble.
        invariant(after.length === pageSize, "the image of a page has the size of a page")
        if (isAborted !== true) images.set(page, after)
      }
      const pages = Array.from(images.keys()).sort((a, b) => a - b)
      invariant(
        batch.databasePages === undefined || batch.databasePages >= (pages.at(-1) ?? 0),
        "a batch writes no page beyond the end that it gives the database"
      )
      if (pages.length === 0) {
        const ended = log.ended()
        return resume(
          ended === undefined ? Exit.succeed({ epoch: log.epoch, commitSeq: undefined }) : Exit.fail(ended)
        )
      }
      const stepBack = log.admit({
        length: pages.length * recordBytes,
        enter: () => {
          const stored = log.append(
            {
              token: batch.token,
              pages,
              image: (page) => images.get(page) ?? absent(page),
              databasePages: batch.databasePages ?? Math.max(log.databasePages, pages.at(-1) ?? 0)
            },
            lane,
            nobody
          )
          resume(
            stored instanceof LaneFull
              ? Exit.fail(stored)
              : Exit.succeed({ epoch: stored.epoch, commitSeq: stored.seq })
          )
        },
        refuse: (ended) => resume(Exit.fail(ended))
      })
      return Effect.sync(stepBack)
    })

  const writer: Effect.Effect<LaneWriter, never, Scope.Scope> = Effect.map(assignment.scoped, (lane) => {
    const self: LaneWriter = {
      lane,
      submitBatch: (batch) => submit(lane, batch),
      section: (use) => sections.within(self, use)
    }
    return self
  })

  const advanceAndFlush = (
    advance: { readonly waitFor?: ReadonlyArray<LaneWriter> | undefined } = {}
  ): Effect.Effect<boolean, EpochBusy | LogEnded> => {
    const timeoutMillis = interval * defaults.advanceIntervals
    const writers = advance.waitFor ?? []
    const nowMillis = () => Number(clock.monotonicTimeNanosUnsafe() / 1000n) / 1000
    return Effect.suspend(() => {
      const deadline = nowMillis() + timeoutMillis
      const attempt: Effect.Effect<boolean, EpochBusy> = Effect.suspend(() => {
        const pendingWriters = sections.countInside(writers)
        if (pendingWriters === 0) {
          // One of them may be back before the cycle has its turn: then the epoch stays open for it.
          return Effect.flatMap(
            log.cycleWhen(() => sections.countInside(writers) === 0),
            (isDurable) => isDurable === undefined ? attempt : Effect.succeed(isDurable)
          )
        }
        const left = deadline - nowMillis()
        return left <= 0
          ? Effect.fail(new EpochBusy({ epoch: log.epoch, timeoutMillis, pendingWriters }))
          : Effect.andThen(sections.awaitOutside(writers, left), attempt)
      })
      return attempt
    }).pipe(
      Effect.flatMap((isDurable) => {
        const ended = isDurable ? undefined : log.ended()
        return ended === undefined ? Effect.succeed(isDurable) : Effect.fail(ended)
      })
    )
  }

  // The coordinator is one writer: its commits are handed over in one thread (PW-32: a lane is a thread's slot).
  const coordinatorLane = () => {
    if (owner === undefined) coordinatorsLane = assignment.attach()
    own("coordinator")
    return coordinatorsLane
  }
  let coordinatorsLane = 0 as LaneWriter["lane"] // until the first commit, which attaches

  const parallelWal: ParallelWal["Service"] = {
    database,
    pageSize,
    startUp: examination,
    control,
    laneCount: () => assignment.laneCount,
    epoch: () => log.epoch,
    durableEpoch: () => log.durableEpoch,
    published: () => log.published.commitSeq,
    inLog: () => ({ records: index.records, segments: index.segments.length }),
    fallback: () => fallback.reason,
    resumeParallel: Effect.andThen(Effect.sync(() => encoder.resume()), laterLog.write),
    forceConservative: Effect.andThen(Effect.sync(() => encoder.fallBack("operator_forced")), laterLog.write),
    writer,
    awaitDurable: log.awaitDurable,
    advanceAndFlush,
    startTicker: ticker.start,
    stopTicker: ticker.stop,
    decisions: () => controller?.decisions ?? [],
    checkpoint: (mode, how) => checkpoint.run(mode, how?.busyTimeout ?? defaults.busyTimeout)
  }
  const commitLog: CommitLog["Service"] = {
    database,
    pageSize,
    published: () => log.published,
    recovered: { base: recovered.base, tip: recovered.tip, pages: () => recovered.pages },
    ended: () => log.ended(),
    commitBytes: (pageCount) => pageCount * recordBytes,
    refuse: (pageCount) => {
      const accounted = pageCount * SegmentFormat.accountedBytes(0, pageSize)
      if (overflowPolicy === "overflow" || accounted <= laneCapacityBytes) return undefined
      return new Exhausted({ what: "bytes of a lane", limit: BigInt(laneCapacityBytes) })
    },
    restore: (tip, walOffset) => {
      invariant(tip + 1n === log.next, "a restored coordinator continues at the tip of its log")
      invariant(walOffset === 0, "a parallel WAL has no offsets")
    },
    // Under the policy `block` a commit waits until the lane has room for it.
    admit: (admission) =>
      log.admit(admission, () => {
        const accounted = (admission.length / recordBytes) * SegmentFormat.accountedBytes(0, pageSize)
        return overflowPolicy === "overflow" || lanes.fits(log.laneFor(coordinatorLane()), accounted)
      }),
    appendUnsafe: (commit: LogCommit, waiter: HandOverWaiter) => {
      const lane = coordinatorLane()
      invariant(waiter.mode === "durable", "a commit is visible when it is durable")
      invariant(commit.seq === log.next, "commits are handed over in the order of their sequences")
      try {
        const stored = log.append(commit, lane, waiter)
        invariant(!(stored instanceof LaneFull), "a commit is let in when its lane has room for it")
      } catch (defect) {
        // The coordinator has given the sequence away: nothing can follow it.
        log.poison(Cause.die(defect))
        const ended = log.ended()
        invariant(ended !== undefined, "a poisoned log has ended")
        waiter.fail(ended)
      }
      return 0
    },
    poison: log.poison,
    settle: log.settle,
    openReader: () => readers.open(log.published),
    isSeenByReaders: (commit) => readers.registry.isAtLeast(commit),
    onRestart: (listener) => {
      readers.listeners.push(listener)
    },
    onPublished: (listener) => {
      log.publishedListeners.push(listener)
    }
  }
  return { parallelWal, commitLog }
})

/** PW-01, PW-02: a number of lanes that is too large is clamped, and said so. */
const clampedLanes = (control: ControlSurface, slots: number): Effect.Effect<number> => {
  const lanes = laneCount(control.laneCount, slots, control.mode)
  return control.laneCount === undefined || control.mode === "conservative" || control.laneCount <= lanes
    ? Effect.succeed(lanes)
    : Effect.as(Effect.logWarning(`${control.laneCount} lanes were asked for, and ${lanes} can be in use`), lanes)
}

/** Every lane has a number that fits a u16 (PW-02). */
const maxLanes = 65_535

const absent = (page: PageNumber): never => {
  throw new TypeError(`page ${page} is not in the batch`)
}

/** Who submits a batch waits for its epoch, when he waits. */
const nobody: HandOverWaiter = { mode: "durable", succeed: () => {}, fail: () => {} }
