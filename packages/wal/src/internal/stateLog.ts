/**
 * A state machine over an append log: a state in memory that changes by commands, and a log of the commands from which
 * it is rebuilt.
 *
 * 1. A command changes the state only once it is durable, and in the order of the log.
 * 2. What a caller is answered rests on durable commands only.
 * 3. The state that a replay gives is the state that was: the same commands in the same order (`stateReplay.ts`).
 * 4. A snapshot says what the state was at its begin. The log is truncated up to that begin only when the snapshot's
 *    end is durable; so at every moment there is one complete snapshot, and everything behind it.
 * 5. What was submitted is submitted: nobody takes it back, and an interrupted caller only stops waiting.
 *
 * The concurrency argument. Everybody submits in one synchronous step, which decides (looking at the state, and at what
 * is submitted and not yet durable) and enters the queue. One fiber, the appender, hands the queue over to the log, in
 * order, without waiting for durability: so the order of the log is the order of the decisions, and everything that
 * gathers during a sync shares the next one. Another fiber, the applier, waits until the log is durable behind the oldest
 * submission, applies all that are, in order, each in one synchronous step with its answer. It does not matter when the
 * callers are scheduled: the order is made before they wait and applied before they go on. No lock exists; what spans a
 * sync is the queue of submissions and nothing else.
 *
 * Fibers are resumed inline, by the applier or by whoever submits. Every such call stands at the end of its step, behind
 * all changes of the fields of this class.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { Lsn } from "@tidemark/core/Scalars"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import type { AppendLog } from "../AppendLog.ts"
import { recordFrameBytes } from "../AppendLogFormat.ts"
import type { LogEnded } from "../GroupCommit.ts"
import { LogClosed, RecordTooLarge } from "../LogErrors.ts"
import * as StateRecordFormat from "../StateRecordFormat.ts"
import { Fifo } from "./fifo.ts"
import type { Decision, LoggedState, StateDefinition, StateLogError, StateLogOptions } from "./loggedState.ts"

/** Items are gathered to records of about so many bytes: few heads, and the event loop has its turn in between. */
const packBytes = 64 * 1024

/** Submissions are handed over to the log in groups of so many bytes: one step for all of them. */
const maxGroupBytes = 256 * 1024

interface Submission {
  readonly records: ReadonlyArray<Uint8Array>
  /** What the records take in the log. */
  readonly bytes: number
  /** Called once, when the records are in the log and in memory. */
  readonly appended?: (() => void) | undefined
  /** Called once, when they are durable. */
  readonly settle: () => void
  /** Called once instead, when they will never be. */
  readonly fail: (failure: Exit.Exit<never, StateLogError>) => void
}

interface SnapshotRequest<Command> {
  readonly begun: (start: Lsn, commands: ReadonlyArray<Command>) => void
}

interface Pending {
  readonly end: Lsn
  readonly submission: Submission
}

interface Admission {
  readonly enter: () => void
  readonly refuse: (failure: Exit.Exit<never, StateLogError>) => void
}

/** @internal */
export class StateLog<State extends LoggedState<Command>, Command> {
  readonly state: State
  /** The largest command, bytes. */
  readonly maxItemBytes: number
  /** Called synchronously when the log has ended, whatever the reason. */
  onEnded: () => void = () => {}
  private readonly log: AppendLog["Service"]
  private readonly definition: StateDefinition<State, Command>
  private readonly options: StateLogOptions
  private readonly maxRecordBytes: number
  private readonly maxGroupBytes: number
  private readonly queue = new Fifo<Submission | SnapshotRequest<Command>>()
  private queuedBytes = 0
  /** The submissions that are neither in the queue any more nor wholly in the log yet. */
  private appending: ReadonlyArray<Submission> = []
  private readonly admissions: Array<Admission> = []
  private readonly pending = new Fifo<Pending>()
  private lastEnd: Lsn
  /** Behind the newest complete snapshot. */
  private snapshotEnd: Lsn
  private isSnapshotDue = false
  private isSettling = false
  private isClosing = false
  private hasAppended = false
  private failure: Exit.Exit<never, LogEnded> | undefined
  /** Each resumes its fiber; set only while that one is parked. */
  private unparkAppender: (() => void) | undefined
  private unparkApplier: (() => void) | undefined
  private unparkSnapshotter: (() => void) | undefined
  private drained: (() => void) | undefined

  constructor(
    log: AppendLog["Service"],
    definition: StateDefinition<State, Command>,
    options: StateLogOptions,
    opened: { readonly state: State; readonly snapshotEnd: Lsn; readonly maxRecordBytes: number }
  ) {
    this.log = log
    this.definition = definition
    this.options = options
    this.state = opened.state
    this.snapshotEnd = opened.snapshotEnd
    this.maxRecordBytes = opened.maxRecordBytes
    this.maxGroupBytes = Math.min(maxGroupBytes, recordFrameBytes(opened.maxRecordBytes))
    this.maxItemBytes = opened.maxRecordBytes - StateRecordFormat.recordHeadBytes - StateRecordFormat.itemHeadBytes
    this.lastEnd = log.watermarks().durable
  }

  /** Why nothing is taken any more, or `undefined` while the log lives. */
  ended(): Exit.Exit<never, LogEnded> | undefined {
    return this.failure ?? (this.isClosing ? Exit.fail(new LogClosed({ log: this.log.directory })) : undefined)
  }

  /**
   * Decides, in one synchronous step, and does what was decided. While too much is queued the caller waits for its turn,
   * in arrival order, interruptibly; once it has decided, an interruption only ends its waiting.
   */
  transact<A>(decide: () => Decision<Command, A>): Effect.Effect<A, StateLogError> {
    return Effect.callback<A, StateLogError>((resume) => {
      const ended = this.ended()
      if (ended !== undefined) return resume(ended)
      const enter = () => this.decide(decide, resume)
      if (this.admissions.length === 0 && this.hasRoom()) return enter()
      const admission: Admission = { enter, refuse: resume }
      this.admissions.push(admission)
      return Effect.sync(() => {
        const at = this.admissions.indexOf(admission)
        if (at >= 0) this.admissions.splice(at, 1)
      })
    })
  }

  private decide<A>(
    decide: () => Decision<Command, A>,
    resume: (exit: Exit.Exit<A, StateLogError>) => void
  ): void {
    let submission: Submission
    try {
      const decision = decide()
      if (decision.type === "answer") return resume(Exit.succeed(decision.answer))
      if (decision.type === "answerWhenDurable") {
        submission = { records: [], bytes: 0, settle: () => resume(Exit.succeed(decision.answer)), fail: resume }
      } else {
        const items = decision.commands.map(this.definition.encode)
        const refusal = this.refuseSize(items)
        if (refusal !== undefined) return resume(Exit.fail(refusal))
        decision.stage?.()
        const records = this.packCommands(items)
        submission = {
          records,
          bytes: bytesOf(records),
          settle: () => {
            let i = 0
            for (const command of decision.commands) this.state.apply(command, items[i++]?.length ?? 0)
            resume(Exit.succeed(decision.answer()))
          },
          fail: resume
        }
      }
    } catch (defect) {
      return resume(Exit.die(defect))
    }
    this.submit(submission)
  }

  /** The refusal of a command that fits into no record. */
  refuseSize(items: ReadonlyArray<Uint8Array>): RecordTooLarge | undefined {
    const item = items.find(({ length }) => length > this.maxItemBytes)
    return item === undefined ? undefined : new RecordTooLarge({
      log: this.log.directory,
      bytes: item.length + this.maxRecordBytes - this.maxItemBytes,
      maxRecordBytes: this.maxRecordBytes
    })
  }

  private packCommands(items: ReadonlyArray<Uint8Array>): ReadonlyArray<Uint8Array> {
    if (items.length === 1) return [StateRecordFormat.encode({ type: "commands", isFirst: true, isLast: true, items })]
    const packs = Array.from(this.packs(items))
    return packs.map((pack, i) =>
      StateRecordFormat.encode({ type: "commands", isFirst: i === 0, isLast: i === packs.length - 1, items: pack })
    )
  }

  /** Groups items so that each group fits into a record. */
  private *packs(items: Iterable<Uint8Array>): Generator<ReadonlyArray<Uint8Array>> {
    const limit = Math.min(packBytes, this.maxRecordBytes) - StateRecordFormat.recordHeadBytes
    let pack: Array<Uint8Array> = []
    let bytes = 0
    for (const item of items) {
      const itemBytes = StateRecordFormat.itemHeadBytes + item.length
      if (pack.length > 0 && bytes + itemBytes > limit) {
        yield pack
        pack = []
        bytes = 0
      }
      pack.push(item)
      bytes += itemBytes
    }
    if (pack.length > 0) yield pack
  }

  private submit(submission: Submission): void {
    this.queue.push(submission)
    this.queuedBytes += submission.bytes
    this.wakeAppender()
  }

  private hasRoom(): boolean {
    return this.queuedBytes < this.options.maxQueuedBytes
  }

  private admitWaiting(): void {
    while (this.ended() === undefined && this.hasRoom()) {
      const admission = this.admissions.shift()
      if (admission === undefined) return
      admission.enter()
    }
  }

  // ---------------------------------------------------------------------------------------------------------------
  // The appender
  // ---------------------------------------------------------------------------------------------------------------

  private wakeAppender(): void {
    if (this.isSettling) return
    const { unparkAppender } = this
    this.unparkAppender = undefined
    unparkAppender?.()
  }

  private readonly parkAppender = Effect.callback<void>((resume) => {
    if (this.queue.size > 0 || this.isClosing || this.failure !== undefined) return resume(Exit.void)
    this.unparkAppender = () => resume(Exit.void)
  })

  private readonly append: Effect.Effect<void> = Effect.gen({ self: this }, function*() {
    while (this.failure === undefined) {
      const next = this.queue.shift()
      if (next === undefined) {
        if (this.isClosing) break
        yield* this.parkAppender
      } else if ("begun" in next) {
        yield* this.beginSnapshot(next)
      } else {
        yield* this.handOver(this.takeGroup(next))
      }
    }
  }).pipe(
    // What goes in was checked for its size and is never empty.
    Effect.catchTag(["EmptyRecord", "RecordTooLarge"], Effect.die),
    Effect.catchCause((cause) => Effect.sync(() => this.fail(cause))),
    Effect.andThen(Effect.sync(() => {
      this.hasAppended = true
      this.wakeApplier()
    }))
  )

  /** The first submission, and as many behind it as go into the log in one hand-over. */
  private takeGroup(first: Submission): ReadonlyArray<Submission> {
    const group = [first]
    let { bytes } = first
    for (let next = this.queue.first; next !== undefined && !("begun" in next); next = this.queue.first) {
      bytes += next.bytes
      if (bytes > this.maxGroupBytes) break
      this.queue.shift()
      group.push(next)
    }
    return group
  }

  private *handOver(group: ReadonlyArray<Submission>) {
    this.appending = group
    const records = group.length === 1 ? group[0]?.records ?? [] : group.flatMap((submission) => submission.records)
    if (group.length > 1 && records.length > 1) {
      const appended = yield* this.log.appendAll(records, { until: "appended" })
      this.lastEnd = appended.at(-1)?.end ?? this.lastEnd
    } else {
      for (const record of records) this.lastEnd = (yield* this.log.append(record, { until: "appended" })).end
    }
    this.appending = []
    for (const submission of group) {
      this.queuedBytes -= submission.bytes
      this.pending.push({ end: this.lastEnd, submission })
    }
    this.wakeApplier()
    for (const submission of group) submission.appended?.()
    this.admitWaiting()
  }

  /** What is in the log is applied before the state is captured, and nothing comes in between. */
  private *beginSnapshot(request: SnapshotRequest<Command>) {
    yield* Effect.callback<void>((resume) => {
      if (this.pending.size === 0 || this.failure !== undefined) return resume(Exit.void)
      this.drained = () => resume(Exit.void)
    })
    if (this.failure !== undefined || this.isClosing) return
    const commands = this.state.capture()
    const begin = StateRecordFormat.encode({ type: "begin", kind: this.definition.kind })
    const { end, start } = yield* this.log.append(begin, { until: "appended" })
    this.lastEnd = end
    request.begun(start, commands)
  }

  // ---------------------------------------------------------------------------------------------------------------
  // The applier
  // ---------------------------------------------------------------------------------------------------------------

  private wakeApplier(): void {
    const { unparkApplier } = this
    this.unparkApplier = undefined
    unparkApplier?.()
  }

  private readonly parkApplier = Effect.callback<void>((resume) => {
    if (this.pending.size > 0 || this.hasAppended) return resume(Exit.void)
    this.unparkApplier = () => resume(Exit.void)
  })

  private readonly applyAll: Effect.Effect<void> = Effect.gen({ self: this }, function*() {
    while (true) {
      const { first } = this.pending
      if (first !== undefined) {
        yield* this.log.commitAtLeast(first.end, "durable")
        this.settleDurable()
      } else if (this.hasAppended) break
      else yield* this.parkApplier
    }
  }).pipe(
    Effect.catchTag("LsnNotReserved", Effect.die),
    Effect.catchCause((cause) => Effect.sync(() => this.fail(cause)))
  )

  private settleDurable(): void {
    const { durable } = this.log.watermarks()
    this.isSettling = true
    for (let { first } = this.pending; first !== undefined && first.end <= durable; first = this.pending.first) {
      this.pending.shift()
      try {
        first.submission.settle()
      } catch (defect) {
        // The state is broken in the middle of a command: nothing more is applied to it.
        const cause = Cause.die(defect)
        first.submission.fail(Exit.failCause(cause))
        this.fail(cause)
      }
    }
    this.isSettling = false
    this.requestSnapshot()
    if (this.pending.size === 0) this.tellDrained()
    // Those who were answered have submitted again, or have closed the log: it is all handed over in one go.
    this.wakeAppender()
  }

  private tellDrained(): void {
    const { drained } = this
    this.drained = undefined
    drained?.()
  }

  // ---------------------------------------------------------------------------------------------------------------
  // The snapshotter
  // ---------------------------------------------------------------------------------------------------------------

  private requestSnapshot(): void {
    if (this.isSnapshotDue) return
    const grownBytes = this.log.watermarks().durable - this.snapshotEnd
    const { snapshotMinBytes, snapshotRatio } = this.options
    if (grownBytes < Math.max(snapshotMinBytes, snapshotRatio * this.state.liveBytes)) return
    this.isSnapshotDue = true
    const { unparkSnapshotter } = this
    this.unparkSnapshotter = undefined
    unparkSnapshotter?.()
  }

  private readonly parkSnapshotter = Effect.callback<void>((resume) => {
    if (this.isSnapshotDue) return resume(Exit.void)
    this.unparkSnapshotter = () => resume(Exit.void)
  })

  private readonly snapshotForever: Effect.Effect<void> = Effect.gen({ self: this }, function*() {
    while (true) {
      yield* this.parkSnapshotter
      yield* this.writeSnapshot
      this.isSnapshotDue = false
    }
  }).pipe(
    // Whoever commits is told why the log ended; there is nobody else to tell.
    Effect.catchTag(["WalPoisoned", "LogClosed"], () => Effect.void),
    // What fitted into the log once fits into each snapshot.
    Effect.catchTag("RecordTooLarge", Effect.die),
    Effect.catchCause((cause) => Cause.hasInterruptsOnly(cause) ? Effect.void : Effect.sync(() => this.fail(cause)))
  )

  /** Writes the state as it is into the log, next to the commands that go on, and drops what it makes dispensable. */
  private readonly writeSnapshot = Effect.gen({ self: this }, function*() {
    const { commands, start } = yield* Effect.callback<{ start: Lsn; commands: ReadonlyArray<Command> }>((resume) => {
      this.queue.push({ begun: (start, commands) => resume(Exit.succeed({ start, commands })) })
      this.wakeAppender()
    })
    let itemsRecords = 0
    for (const items of this.packs(encodeEach(commands, this.definition.encode))) {
      yield* this.put(StateRecordFormat.encode({ type: "items", items }), "appended")
      itemsRecords++
    }
    yield* this.put(StateRecordFormat.encode({ type: "end", itemsRecords }), "durable")
    this.snapshotEnd = this.log.watermarks().durable
    yield* truncate(this.log, start)
  })

  /** Enters the queue like everybody, but is not held up by those who wait for room: it is one record at a time. */
  private put(record: Uint8Array, until: "appended" | "durable"): Effect.Effect<void, StateLogError> {
    return Effect.callback<void, StateLogError>((resume) => {
      const ended = this.ended()
      if (ended !== undefined) return resume(ended)
      const done = () => resume(Exit.void)
      this.submit({
        records: [record],
        bytes: recordFrameBytes(record.length),
        appended: until === "appended" ? done : undefined,
        settle: until === "durable" ? done : () => {},
        fail: resume
      })
    })
  }

  // ---------------------------------------------------------------------------------------------------------------
  // Beginning and ending
  // ---------------------------------------------------------------------------------------------------------------

  /** Starts the three fibers in the scope. When it closes, everything submitted is durable first. */
  readonly start: Effect.Effect<void, never, Scope.Scope> = Effect.gen({ self: this }, function*() {
    const scope = yield* Effect.scope
    const working = { startImmediately: true, uninterruptible: true } as const
    const appender = yield* Effect.forkIn(this.append, scope, working)
    const applier = yield* Effect.forkIn(this.applyAll, scope, working)
    const snapshotter = yield* Effect.forkIn(this.snapshotForever, scope, { startImmediately: true })
    yield* Effect.addFinalizer(() =>
      Effect.gen({ self: this }, function*() {
        this.isClosing = true
        this.onEnded()
        this.refuseWaiting()
        this.wakeAppender()
        yield* Fiber.interrupt(snapshotter)
        yield* Fiber.await(appender)
        yield* Fiber.await(applier)
      })
    )
    this.requestSnapshot()
  })

  private fail(cause: Cause.Cause<LogEnded>): void {
    if (this.failure !== undefined) return
    const failure = Exit.failCause(cause)
    this.failure = failure
    this.onEnded()
    const { appending } = this
    this.appending = []
    const queued = this.queue.takeAll()
    for (const { submission } of this.pending.takeAll()) submission.fail(failure)
    for (const submission of appending) submission.fail(failure)
    for (const submission of queued) if ("fail" in submission) submission.fail(failure)
    this.refuseWaiting()
    this.tellDrained()
    this.wakeAppender()
  }

  private refuseWaiting(): void {
    const ended = this.ended()
    invariant(ended !== undefined, "only a log that has ended refuses those who wait")
    for (const admission of this.admissions.splice(0)) admission.refuse(ended)
  }
}

const bytesOf = (records: ReadonlyArray<Uint8Array>): number => {
  let bytes = 0
  for (const record of records) bytes += recordFrameBytes(record.length)
  return bytes
}

function* encodeEach<Command>(commands: ReadonlyArray<Command>, encode: (command: Command) => Uint8Array) {
  for (const command of commands) yield encode(command)
}

/**
 * A file that cannot be removed now is removed behind the next snapshot.
 *
 * @internal
 */
export const truncate = (log: AppendLog["Service"], lsn: Lsn): Effect.Effect<void, LogEnded> =>
  log.truncateBefore(lsn).pipe(
    Effect.catchTag("VfsError", (error) => Effect.logWarning(`${log.directory} could not be truncated`, error)),
    Effect.catchTag("LsnNotReserved", Effect.die),
    Effect.asVoid
  )
