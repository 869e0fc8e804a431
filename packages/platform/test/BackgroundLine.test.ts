/**
 * The line in which the writes of a file stand, with writes that end when the test says so.
 */
import { assert, describe, it } from "@effect/vitest"
import { VfsError } from "@tidemark/platform/VfsError"
import { Cause, Deferred, Effect, Exit, Fiber, References } from "effect"
import fc from "fast-check"
import { makeBackgroundLine } from "../src/internal/backgroundLine.ts"

const path = "journal"
const failure = new VfsError({ operation: "write", path, code: "EIO", cause: new Error("the device is gone") })

/** A line whose writes are known by numbers, and what happened to them. */
const makeLine = Effect.sync(() => {
  const line = makeBackgroundLine(path)
  /** `b3`: the third was begun by itself, `q3`: it joined the queue, `e3`: it has ended. */
  const events: Array<string> = []
  const ends = new Map<number, Deferred.Deferred<void, VfsError>>()
  const queueable = new Set<number>()
  let writes = 0
  const write = (number: number) =>
    line((isQueued) => {
      events.push(`${isQueued ? "q" : "b"}${number}`)
      const end = Deferred.makeUnsafe<void, VfsError>()
      ends.set(number, end)
      return Effect.ensuring(Deferred.await(end), Effect.sync(() => events.push(`e${number}`)))
    }, () => queueable.has(number))
  return {
    events: () => events.splice(0),
    /** Asks for a write, which has its place when this is done. */
    ask: (options: { readonly canQueue?: boolean } = {}) =>
      Effect.suspend(() => {
        const number = ++writes
        if (options.canQueue === true) queueable.add(number)
        // A test that ends does not wait for those that it does not let end.
        return Effect.forkDetach(Effect.exit(write(number)), { startImmediately: true })
      }),
    setQueueable: (number: number, can: boolean) => {
      if (can) queueable.add(number)
      else queueable.delete(number)
    },
    end: (number: number, exit: Exit.Exit<void, VfsError> = Exit.void) =>
      Effect.suspend(() => {
        const end = ends.get(number)
        return end === undefined ? Effect.die(`write ${number} was not begun`) : Deferred.done(end, exit)
      }),
    line
  }
})

const turns = Effect.forEach(Array.from({ length: 20 }), () => Effect.yieldNow, { discard: true })

const codeOf = (exit: Exit.Exit<void, VfsError>) =>
  Exit.isSuccess(exit) ?
    "done" :
    Exit.findErrorOption(exit).pipe((error) => error._tag === "Some" ? error.value.code : "defect")

describe("BackgroundLine", () => {
  it.effect("one is begun when the one before it is done, in the order in which they were asked for", () =>
    Effect.gen(function*() {
      const { ask, end, events } = yield* makeLine
      const fibers = [yield* ask(), yield* ask(), yield* ask()]
      yield* turns
      assert.deepStrictEqual(events(), ["b1"])
      yield* end(1)
      yield* turns
      // Whoever asks now stands behind all of them, though nothing is done twice at a time.
      fibers.push(yield* ask())
      yield* end(2)
      yield* turns
      assert.deepStrictEqual(events(), ["e1", "b2", "e2", "b3"])
      yield* end(3)
      yield* turns
      yield* end(4)
      assert.deepStrictEqual((yield* Fiber.joinAll(fibers)).map(codeOf), ["done", "done", "done", "done"])
      assert.deepStrictEqual(events(), ["e3", "b4", "e4"])
      yield* ask()
      assert.deepStrictEqual(events(), ["b5"])
    }))

  it.effect("what the queue takes joins it at once, behind what is in the queue and behind nothing else", () =>
    Effect.gen(function*() {
      const { ask, end, events, setQueueable } = yield* makeLine
      const queued = { canQueue: true }
      yield* ask(queued)
      yield* ask(queued)
      assert.deepStrictEqual(events(), ["q1", "q2"])
      yield* ask()
      // The queue would take it; but one that waits is in front of it.
      yield* ask(queued)
      yield* turns
      assert.deepStrictEqual(events(), [])
      yield* end(1)
      yield* turns
      assert.deepStrictEqual(events(), ["e1"])
      yield* end(2)
      yield* turns
      assert.deepStrictEqual(events(), ["e2", "b3"])
      yield* end(3)
      yield* turns
      assert.deepStrictEqual(events(), ["e3", "q4"])
      // Whether the queue takes it is asked when its turn comes, not before.
      yield* ask()
      yield* ask(queued)
      setQueueable(5, true)
      setQueueable(6, false)
      yield* end(4)
      yield* turns
      assert.deepStrictEqual(events(), ["e4", "q5"])
      yield* ask(queued)
      yield* end(5)
      yield* turns
      assert.deepStrictEqual(events(), ["e5", "b6"])
    }))

  it.effect("one that fails takes those behind it along, which were not begun; when all were told the line works again", () =>
    Effect.gen(function*() {
      const { ask, end, events } = yield* makeLine
      const failing = [yield* ask(), yield* ask(), yield* ask()]
      yield* end(1, Exit.fail(failure))
      assert.deepStrictEqual((yield* Fiber.joinAll(failing)).map(codeOf), [
        "EIO",
        "ECANCELED",
        "ECANCELED"
      ])
      assert.deepStrictEqual(events(), ["b1", "e1"])
      const next = yield* ask()
      yield* end(4)
      assert.strictEqual(codeOf(yield* Fiber.join(next)), "done")
      assert.deepStrictEqual(events(), ["b4", "e4"])
    }))

  it.effect("a failure in the queue does not let begin what waits behind the queue", () =>
    Effect.gen(function*() {
      const { ask, end, events } = yield* makeLine
      const fibers = [yield* ask({ canQueue: true }), yield* ask({ canQueue: true }), yield* ask()]
      yield* end(1, Exit.fail(failure))
      yield* turns
      // The first has failed already, but not everybody has been told.
      fibers.push(yield* ask())
      // The queue answers for itself what it does with those that it took.
      yield* end(2, Exit.fail(new VfsError({ operation: "write", path, code: "ECANCELED", cause: failure })))
      assert.deepStrictEqual((yield* Fiber.joinAll(fibers)).map(codeOf), ["EIO", "ECANCELED", "ECANCELED", "ECANCELED"])
      assert.deepStrictEqual(events(), ["q1", "q2", "e1", "e2"])
    }))

  it.effect("a fiber that is interrupted while it waits writes all the same, and ends after that", () =>
    Effect.gen(function*() {
      const { ask, end, events } = yield* makeLine
      yield* ask()
      const second = yield* ask()
      const third = yield* ask()
      const interrupting = yield* Effect.forkChild(Fiber.interrupt(second), { startImmediately: true })
      yield* turns
      assert.isUndefined(second.pollUnsafe())
      yield* end(1)
      yield* turns
      assert.deepStrictEqual(events(), ["b1", "e1", "b2"])
      assert.isUndefined(interrupting.pollUnsafe())
      yield* end(2)
      yield* Fiber.join(interrupting)
      yield* turns
      yield* end(3)
      assert.strictEqual(codeOf(yield* Fiber.join(third)), "done")
    }))

  it.effect("a write that throws, or dies, is a failure for those behind it", () =>
    Effect.gen(function*() {
      const line = makeBackgroundLine(path)
      const deaths: ReadonlyArray<() => Effect.Effect<void>> = [
        () => Effect.die("a bug"),
        () => {
          throw new Error("a bug")
        }
      ]
      for (const death of deaths) {
        const start = Deferred.makeUnsafe<void>()
        const first = yield* Effect.forkChild(
          Effect.exit(line(() => Effect.andThen(Deferred.await(start), Effect.suspend(death)))),
          { startImmediately: true }
        )
        const behind = yield* Effect.forkChild(Effect.exit(line(() => assert.fail("it was begun"))), {
          startImmediately: true
        })
        yield* Deferred.succeed(start, undefined)
        assert.deepStrictEqual((yield* Fiber.joinAll([first, behind])).map(codeOf), ["defect", "ECANCELED"])
        const alone = yield* Effect.exit(line(death))
        assert.isTrue(Exit.isFailure(alone) && Cause.hasDies(alone.cause))
        yield* line(() => Effect.void)
      }
    }))

  it.live("whatever is asked for, however fibers yield: in order, one at a time but in the queue, none missing", () => {
    const step = fc.record({
      /** Turns before it is asked for, and until it is done. */
      pause: fc.nat({ max: 3 }),
      takes: fc.nat({ max: 4 }),
      canQueue: fc.boolean()
    })
    const waitTurns = (count: number): Effect.Effect<void> =>
      count === 0 ? Effect.void : Effect.andThen(Effect.yieldNow, waitTurns(count - 1))
    let queuedTogether = 0
    const run = (steps: ReadonlyArray<typeof step extends fc.Arbitrary<infer A> ? A : never>) =>
      Effect.gen(function*() {
        const line = makeBackgroundLine(path)
        const begun: Array<number> = []
        let underWay = 0
        let queued = 0
        /** The end of what is in the queue. */
        let queue: Effect.Effect<void> = Effect.void
        const write = (number: number, { canQueue, takes }: (typeof steps)[number]) =>
          line((isQueued) => {
            assert.strictEqual(underWay, isQueued ? queued : 0)
            begun.push(number)
            underWay++
            if (isQueued) queued++
            if (queued > 1) queuedTogether++
            const before = queue
            const end = Deferred.makeUnsafe<void>()
            if (isQueued) queue = Deferred.await(end)
            return (isQueued ? before : Effect.void).pipe(
              Effect.andThen(waitTurns(takes)),
              Effect.andThen(Effect.sync(() => {
                underWay--
                if (isQueued) queued--
                Deferred.doneUnsafe(end, Effect.void)
              }))
            )
          }, () => canQueue)
        const fibers: Array<Fiber.Fiber<void, VfsError>> = []
        for (const [number, one] of steps.entries()) {
          yield* waitTurns(one.pause)
          fibers.push(yield* Effect.forkChild(write(number, one), { startImmediately: true }))
        }
        yield* Fiber.joinAll(fibers)
        assert.deepStrictEqual(begun, Array.from(steps, (_, number) => number))
      })
    const lists = fc.array(step, { minLength: 2, maxLength: 20 })
    return Effect.promise(async () => {
      await fc.assert(
        fc.asyncProperty(
          lists,
          fc.constantFrom(20, 64, 2048),
          (list, ops) => Effect.runPromise(run(list).pipe(Effect.provideService(References.MaxOpsBeforeYield, ops)))
        ),
        { numRuns: 400 }
      )
      // About 240: what is below is no accident of the lists.
      assert.isAbove(queuedTogether, 100)
    })
  })
})
