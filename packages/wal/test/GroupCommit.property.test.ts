/**
 * Random schedules of everything that can be done to an engine, over a disk that takes its time and may fail, under a
 * scheduler that may interrupt any two steps. fast-check prints the seed and the smallest plan of a failure.
 */
import { assert, describe, it } from "@effect/vitest"
import type { Lsn } from "@tidemark/core/Scalars"
import { toLsn } from "@tidemark/core/Scalars"
import { Cause, Effect, Exit, Fiber, Scheduler } from "effect"
import fc from "fast-check"
import type { CommitMode, GroupCommit } from "../src/GroupCommit.ts"
import { commit, start } from "./support/engine.ts"
import { diskError } from "./support/recordingSink.ts"
import type { RecordingSink } from "./support/recordingSink.ts"
import { makeRandom, SeededScheduler } from "./support/seededScheduler.ts"
import { parse, record } from "./support/testFrames.ts"

type Action =
  | { readonly do: "commit" | "admit"; readonly length: number; readonly mode: CommitMode }
  | { readonly do: "reserve"; readonly length: number; readonly turns: number; readonly isFilled: boolean }
  | { readonly do: "waitFor"; readonly part: number; readonly mode: CommitMode }
  | { readonly do: "flush" }
  | { readonly do: "quiesce"; readonly turns: number }

type Step = Action | { readonly do: "pause"; readonly turns: number } | {
  readonly do: "interrupt"
  readonly action: Action
  readonly turns: number
}

interface Plan {
  readonly seed: number
  readonly yieldRate: number
  readonly padding: "none" | "sealed"
  readonly maxBatchBytes: number
  readonly maxQueuedBytes: number
  readonly initialLsn: number
  readonly fault: { readonly call: number; readonly how: "fails" | "dies" | "is interrupted" } | undefined
  /** After so many turns somebody closes the log; the others find out. */
  readonly closeAfter: number | undefined
  /** After so many turns somebody outside poisons it. */
  readonly poisonAfter: number | undefined
  /** From so many writers on batches are on their way behind one another. */
  readonly overlapWaiters: number | undefined
  /** How many writers follow each script. */
  readonly copies: number
  readonly writers: ReadonlyArray<ReadonlyArray<Step>>
}

const largest = 200
const length = fc.oneof(
  { weight: 5, arbitrary: fc.integer({ min: 1, max: 8 }) },
  { weight: 1, arbitrary: fc.integer({ min: 9, max: largest / 8 }) }
).map((words) => 8 * words)
const turns = fc.integer({ min: 0, max: 6 })
const mode = fc.constantFrom<CommitMode>("written", "durable")
const action: fc.Arbitrary<Action> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constantFrom("commit" as const, "admit" as const), length, mode }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("reserve" as const), length, turns, isFilled: fc.boolean() }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("waitFor" as const),
      part: fc.double({ min: 0, max: 1, noNaN: true }),
      mode
    })
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("flush" as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("quiesce" as const), turns }) }
)
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: action },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("pause" as const), turns }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("interrupt" as const), action, turns }) }
)
const plan = (isFaulty: boolean): fc.Arbitrary<Plan> =>
  fc.record({
    seed: fc.integer(),
    yieldRate: fc.constantFrom(0, 0.05, 0.4),
    padding: fc.constantFrom("none" as const, "sealed" as const),
    maxBatchBytes: fc.constantFrom(64, 128, 8 * 1024 * 1024),
    maxQueuedBytes: fc.constantFrom(96, 256, 64 * 1024 * 1024),
    initialLsn: fc.constantFrom(0, 64),
    fault: isFaulty
      ? fc.record({
        call: fc.integer({ min: 0, max: 8 }),
        how: fc.constantFrom("fails" as const, "dies" as const, "is interrupted" as const)
      })
      : fc.constant(undefined),
    closeAfter: fc.option(fc.integer({ min: 0, max: 40 }), { nil: undefined, freq: 4 }),
    poisonAfter: isFaulty
      ? fc.option(fc.integer({ min: 0, max: 40 }), { nil: undefined, freq: 1 })
      : fc.constant(undefined),
    overlapWaiters: fc.constantFrom(undefined, 2, 6, 32),
    copies: fc.oneof({ weight: 3, arbitrary: fc.constant(1) }, { weight: 1, arbitrary: fc.constant(36) }),
    writers: fc.array(fc.array(step, { minLength: 1, maxLength: 8 }), { minLength: 1, maxLength: 6 })
  })

const pause = (count: number) => Effect.repeat(Effect.yieldNow, { times: count })

/** What the tests know of one hand-over: what was promised about it, and to whom it was made. */
interface HandedOver {
  readonly writer: number
  readonly index: number
  readonly end: number
}

class World {
  readonly promised: Array<HandedOver> = []
  readonly wrong: Array<string> = []
  private readonly indexes = new Map<number, number>()
  private readonly log: GroupCommit
  private readonly disk: RecordingSink
  private readonly plan: Plan

  constructor(log: GroupCommit, disk: RecordingSink, plan: Plan) {
    this.log = log
    this.disk = disk
    this.plan = plan
  }

  readonly run = (step: Step, writer: number): Effect.Effect<unknown> => {
    switch (step.do) {
      case "pause":
        return pause(step.turns)
      case "interrupt":
        return Effect.gen({ self: this }, function*() {
          const fiber = yield* Effect.forkChild(this.act(step.action, writer), { startImmediately: true })
          yield* pause(step.turns)
          yield* Fiber.interrupt(fiber)
        })
      default:
        return this.act(step, writer)
    }
  }

  /** Ends whatever happens, or the plan hangs; failures may only be those of a log that has ended. */
  private act(action: Action, writer: number): Effect.Effect<unknown> {
    return this.start(action, writer).pipe(
      Effect.catch((error) =>
        Effect.sync(() => {
          if (this.log.ended() === undefined) this.wrong.push(`${action.do} failed on a living log: ${error._tag}`)
          else if (error._tag !== "WalPoisoned" && error._tag !== "LogClosed") this.wrong.push(error._tag)
        })
      ),
      Effect.tap(() => this.checkBounds())
    )
  }

  private start(action: Action, writer: number): Effect.Effect<unknown, { readonly _tag: string }> {
    const { log } = this
    switch (action.do) {
      case "commit": {
        const index = this.nextIndex(writer)
        return Effect.tap(
          commit(log, record(writer, index, action.length), action.mode),
          (end) => this.acknowledged({ writer, index, end }, action.mode)
        )
      }
      case "admit":
        return this.admit(writer, action.length, action.mode)
      case "reserve": {
        if (this.plan.padding === "none") return Effect.void
        const index = this.nextIndex(writer)
        return Effect.scoped(Effect.gen({ self: this }, function*() {
          const reservation = yield* log.reserve(action.length)
          yield* pause(action.turns)
          if (log.watermarks().written > reservation.start && this.disk.image.length > reservation.start) {
            if (log.ended() === undefined) this.wrong.push(`written passed an open reservation at ${reservation.start}`)
          }
          if (!action.isFilled) return
          yield* reservation.fill(record(writer, index, action.length))
          yield* log.commitAtLeast(reservation.end, "durable")
          yield* this.acknowledged({ writer, index, end: reservation.end }, "durable")
        }))
      }
      case "waitFor":
        return Effect.suspend(() => {
          const { reserved } = log.watermarks()
          const initial = this.plan.initialLsn
          const lsn = toLsn(initial + Math.floor(action.part * (reserved - initial)))
          return Effect.andThen(log.commitAtLeast(lsn, action.mode), this.checkReached(lsn, action.mode))
        })
      case "flush":
        return Effect.suspend(() => {
          const { reserved } = log.watermarks()
          return Effect.andThen(log.flushNow, this.checkReached(reserved, "durable"))
        })
      case "quiesce":
        return log.quiesce(Effect.gen({ self: this }, function*() {
          const before = JSON.stringify([log.watermarks(), this.disk.calls.length])
          const { durable, reserved } = log.watermarks()
          if (durable !== reserved) this.wrong.push(`quiet at ${reserved} with ${durable} durable`)
          yield* pause(action.turns)
          const after = JSON.stringify([log.watermarks(), this.disk.calls.length])
          if (before !== after) this.wrong.push(`quiet, but ${before} became ${after}`)
        }))
    }
  }

  private admit(writer: number, length: number, mode: CommitMode) {
    const { log } = this
    return Effect.callback<HandedOver, { readonly _tag: string }>((resume) => {
      const index = this.nextIndex(writer)
      const stepBack = log.admit({
        length,
        refuse: (ended) => resume(Exit.fail(ended)),
        enter: () => {
          const bytes = record(writer, index, length)
          const end = log.enqueueUnsafe(length, (target, _view, offset) => target.set(bytes, offset), {
            mode,
            succeed: () => resume(this.acknowledged({ writer, index, end }, mode)),
            fail: (failure) => resume(Exit.fail(failure))
          })
        }
      })
      return Effect.sync(stepBack)
    })
  }

  private acknowledged(handedOver: HandedOver, mode: CommitMode) {
    return Effect.suspend(() => {
      this.promised.push(handedOver)
      return Effect.as(this.checkReached(toLsn(handedOver.end), mode), handedOver)
    })
  }

  private checkReached(lsn: Lsn, mode: CommitMode) {
    return Effect.sync(() => {
      const reached = mode === "durable" ? this.disk.syncedEnd : this.disk.image.length
      if (lsn > reached) this.wrong.push(`${mode} up to ${lsn} was promised, the disk is at ${reached}`)
    })
  }

  private checkBounds() {
    return Effect.sync(() => {
      const { reserved, written } = this.log.watermarks()
      const most = Math.max(this.plan.maxQueuedBytes, largest + 16)
      if (reserved - written > most) this.wrong.push(`${reserved - written} bytes are queued`)
    })
  }

  private nextIndex(writer: number): number {
    const index = this.indexes.get(writer) ?? 0
    this.indexes.set(writer, index + 1)
    return index
  }
}

const run = (plan: Plan) =>
  Effect.gen(function*() {
    const { disk, log } = yield* start({ padding: plan.padding }, {
      initialLsn: toLsn(plan.initialLsn),
      maxBatchBytes: plan.maxBatchBytes,
      maxQueuedBytes: plan.maxQueuedBytes,
      overlapWaiters: plan.overlapWaiters === undefined ? undefined : () => plan.overlapWaiters ?? 0
    })
    const random = makeRandom(plan.seed)
    const outcome = plan.fault === undefined
      ? Effect.void
      : { "fails": Effect.fail(diskError()), "dies": Effect.die("dead"), "is interrupted": Effect.interrupt }[
        plan.fault.how
      ]
    disk.before = (_call, index) =>
      Effect.andThen(pause(Math.floor(random() * 4)), index === plan.fault?.call ? outcome : Effect.void)
    const world = new World(log, disk, plan)
    const scripts = plan.writers.flatMap((steps) => Array.from({ length: plan.copies }, () => steps))
    const writers = yield* Effect.forEach(scripts, (steps, writer) =>
      Effect.forkChild(Effect.forEach(steps, (step) => world.run(step, writer), { discard: true })))
    const { poisonAfter } = plan
    const outsider = yield* Effect.forkChild(
      poisonAfter === undefined
        ? Effect.void
        : Effect.andThen(
          pause(poisonAfter),
          Effect.sync(() =>
            log.poison(Cause.die("outside"))
          )
        )
    )
    if (plan.closeAfter !== undefined) {
      yield* pause(plan.closeAfter)
      yield* Effect.exit(log.close)
    }
    const exits = yield* Fiber.awaitAll(writers)
    yield* Fiber.join(outsider)
    const closed = yield* Effect.exit(log.close)
    const { length: calls } = disk.calls
    yield* pause(5)

    assert.deepStrictEqual(world.wrong, [])
    assert.deepStrictEqual(disk.violations, [])
    assert.isTrue(exits.every(Exit.isSuccess), "no writer met a defect")
    assert.lengthOf(disk.calls, calls, "nothing is written behind close")
    const isPoisoned = log.ended()?._tag === "WalPoisoned"
    assert.strictEqual(Exit.isFailure(closed), isPoisoned, "close says whether the log is poisoned")
    if (disk.hasFailed) assert.isTrue(isPoisoned, "a failure of the disk poisons")
    for (const call of disk.calls) {
      assert.isAtMost(call.length, Math.max(plan.maxBatchBytes, largest + 16))
    }

    // Whatever was written reads back without a gap, each hand-over once, those of one writer in order.
    const records = parse(disk.image, plan.initialLsn).filter((frame) => frame.kind === "record")
    const found = new Map(records.map((frame) => [`${frame.writer}.${frame.index}`, frame.lsn + frame.length]))
    assert.strictEqual(found.size, records.length, "no hand-over is there twice")
    for (const { end, index, writer } of world.promised) {
      assert.strictEqual(found.get(`${writer}.${index}`), end, `${writer}.${index} was acknowledged`)
    }
    if (Exit.isSuccess(closed)) {
      const end = toLsn(disk.image.length)
      assert.deepStrictEqual(log.watermarks(), { reserved: end, written: end, durable: end })
      assert.strictEqual(disk.syncedEnd, end)
    }
    return { acknowledged: world.promised.length, mostUnderWay: disk.mostUnderWay }
  }).pipe(Effect.scoped, Effect.provideService(Scheduler.Scheduler, new SeededScheduler(plan.seed, plan.yieldRate)))

/** Fails instead of waiting for ever when a plan has left somebody hanging. */
const orHung = async <A>(promise: Promise<A>): Promise<A> => {
  let timer: NodeJS.Timeout | undefined
  const hung = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("somebody is left waiting")), 5000)
  })
  try {
    return await Promise.race([promise, hung])
  } finally {
    clearTimeout(timer)
  }
}

// A plan that hangs takes its time on each step of its reduction, so that is bounded too.
const settings = { numRuns: 300, interruptAfterTimeLimit: 60_000, markInterruptAsFailure: true }

describe("GroupCommit: random schedules", () => {
  it("GC-02 GC-05 GC-11 order, no gap, no promise too early, nobody hangs, whatever comes together", async () => {
    let acknowledged = 0
    let overlapped = 0
    await fc.assert(
      fc.asyncProperty(plan(false), async (plan) => {
        const result = await orHung(Effect.runPromise(run(plan)))
        acknowledged += result.acknowledged
        if (result.mostUnderWay === 2) overlapped++
      }),
      settings
    )
    assert.isAbove(acknowledged, 300, "the plans do something")
    assert.isAbove(overlapped, 3, "two batches are on their way at once")
  })

  it("GC-07 GC-08 the same over a disk that fails: poison reaches everybody, the disk is left alone", async () => {
    let acknowledged = 0
    let overlapped = 0
    await fc.assert(
      fc.asyncProperty(plan(true), async (plan) => {
        const result = await orHung(Effect.runPromise(run(plan)))
        acknowledged += result.acknowledged
        if (result.mostUnderWay === 2) overlapped++
      }),
      settings
    )
    assert.isAbove(acknowledged, 100, "the plans do something")
    assert.isAbove(overlapped, 3, "two batches are on their way at once")
  })
})
