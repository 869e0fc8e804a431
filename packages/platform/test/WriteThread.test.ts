/**
 * The thread that writes, on real files; and programs in its place that fail in ways it does not.
 */
import { assert, describe, it } from "@effect/vitest"
import { InvariantViolation } from "@tidemark/core/Invariant"
import * as TailMemory from "@tidemark/platform/TailMemory"
import { Effect } from "effect"
import { spawn } from "node:child_process"
import * as NodeFs from "node:fs"
import * as NodeOs from "node:os"
import * as NodePath from "node:path"
import { Worker } from "node:worker_threads"
import { makeOrdersBuffer, type Order, ringEntries, WriteOrders } from "../src/internal/writeOrders.ts"
import { WriteThread } from "../src/internal/writeThread.ts"

const program = (name: string) => new URL(`./programs/${name}.ts`, import.meta.url)

const newFile = Effect.acquireRelease(
  Effect.sync(() => {
    const directory = NodeFs.mkdtempSync(NodePath.join(NodeOs.tmpdir(), "tidemark-thread-"))
    const path = NodePath.join(directory, "file")
    const { O_CREAT, O_DSYNC, O_RDWR } = NodeFs.constants
    return { directory, path, descriptor: NodeFs.openSync(path, O_RDWR | O_CREAT | O_DSYNC, 0o600) }
  }),
  ({ descriptor, directory }) =>
    Effect.sync(() => {
      NodeFs.closeSync(descriptor)
      NodeFs.rmSync(directory, { recursive: true })
    })
)

/** A thread that takes orders, stopped with the scope. */
const startThread = (name?: string) =>
  Effect.gen(function*() {
    const thread = yield* Effect.acquireRelease(
      Effect.sync(() => name === undefined ? new WriteThread() : new WriteThread(program(name))),
      (thread) => Effect.sync(() => thread.stop())
    )
    while (!thread.takesOrders) yield* Effect.callback<void>((resume) => void setImmediate(() => resume(Effect.void)))
    return thread
  })

const codeOf = (cause: unknown) =>
  cause === null
    ? "written"
    : cause instanceof Error && "code" in cause
    ? String(cause.code)
    : "an error without a code"

/** Gives orders, and answers what was told of each of them, in the order in which it was told. */
const giveAll = (thread: WriteThread, list: ReadonlyArray<readonly [descriptor: number, Uint8Array, at: number]>) =>
  Effect.callback<ReadonlyArray<string>>((resume) => {
    const answers: Array<string> = []
    for (const [index, [descriptor, bytes, position]] of list.entries()) {
      thread.write(descriptor, bytes, position, (cause) => {
        answers.push(`${index} ${codeOf(cause)}`)
        if (answers.length === list.length) resume(Effect.succeed(answers))
      })
    }
  })

/** The thread inside. */
const workerOf = (thread: WriteThread): Worker => {
  const worker: unknown = Reflect.get(thread, "worker")
  assert.instanceOf(worker, Worker)
  return worker
}

const filled = (length: number, value: number) => TailMemory.make(length).subarray(0, length).fill(value)

describe.runIf(process.platform === "linux")("WriteThread", () => {
  it.live("writes in order from more pieces of memory than it knows, and answers each order once", () =>
    Effect.gen(function*() {
      const { descriptor, path } = yield* newFile
      const thread = yield* startThread()
      const memories = Array.from({ length: 11 }, () => TailMemory.make(65_536))
      const rounds = 300
      const expected = new Uint8Array(rounds * 20 + 50)
      let size = 0
      const answers: Array<number> = []
      let given = 0
      yield* Effect.callback<void>((resume) => {
        const give = () => {
          while (given < rounds && thread.takesOrders) {
            const order = given++
            const memory = memories[(order * 7) % memories.length] ?? assert.fail("there is none")
            // A part of the memory that no order under way is about.
            const first = (order % 8) * 4096 + order % 100
            const bytes = memory.subarray(first, first + 1 + order % 50).fill(order % 251)
            // Each lies over half of the one before: the order shows.
            const position = order * 20
            expected.set(bytes, position)
            size = Math.max(size, position + bytes.length)
            thread.write(descriptor, bytes, position, (cause) => {
              assert.isNull(cause)
              answers.push(order)
              if (answers.length === rounds) resume(Effect.void)
              else give()
            })
          }
        }
        give()
      })
      assert.deepStrictEqual(answers, Array.from({ length: rounds }, (_, order) => order))
      assert.isTrue(NodeFs.readFileSync(path).equals(expected.subarray(0, size)))
    }).pipe(Effect.scoped))

  it.live("takes as many orders as the ring has entries, and more are a defect", () =>
    Effect.gen(function*() {
      const { descriptor } = yield* newFile
      const thread = yield* startThread()
      const bytes = filled(10, 1)
      const answers = yield* Effect.callback<ReadonlyArray<string>>((resume) => {
        const told: Array<string> = []
        for (let order = 0; order < ringEntries; order++) {
          assert.isTrue(thread.takesOrders)
          thread.write(descriptor, bytes, 0, (cause) => {
            told.push(codeOf(cause))
            if (told.length === ringEntries) resume(Effect.succeed(told))
          })
        }
        // Nobody is answered before this turn of the event loop is over.
        assert.isFalse(thread.takesOrders)
        assert.throws(() => thread.write(descriptor, bytes, 0, () => assert.fail("it is answered")), InvariantViolation)
        assert.throws(() => thread.stop(), InvariantViolation)
      })
      assert.deepStrictEqual(answers, Array.from({ length: ringEntries }, () => "written"))
      assert.isTrue(thread.takesOrders)
      assert.throws(() => thread.write(descriptor, new Uint8Array(1), 0, () => {}), InvariantViolation)
    }).pipe(Effect.scoped))

  it.live("behind an order that fails nothing is written, and it never takes one again", () =>
    Effect.gen(function*() {
      const { descriptor, path } = yield* newFile
      const readOnly = NodeFs.openSync(path, "r")
      const thread = yield* startThread()
      const answers = yield* giveAll(thread, [
        [descriptor, filled(3, 1), 0],
        [readOnly, filled(3, 2), 3],
        [descriptor, filled(3, 3), 6],
        [descriptor, filled(3, 4), 9]
      ])
      NodeFs.closeSync(readOnly)
      assert.deepStrictEqual(answers, ["0 written", "1 EBADF", "2 ECANCELED", "3 ECANCELED"])
      assert.isFalse(thread.takesOrders)
      assert.deepStrictEqual(yield* giveAll(thread, [[descriptor, filled(3, 5), 0]]), ["0 ECANCELED"])
      assert.deepStrictEqual([...NodeFs.readFileSync(path)], [1, 1, 1])
    }).pipe(Effect.scoped))

  for (const [position, code] of [[1, "EDIED"], [2, "EIO"]] as const) {
    it.live(`when it dies everybody is told ${code}, but who was done before`, () =>
      Effect.gen(function*() {
        const { descriptor } = yield* newFile
        const thread = yield* startThread("dyingWriter")
        const bytes = filled(1, 1)
        const answers = yield* giveAll(thread, [
          [descriptor, bytes, 0],
          [descriptor, bytes, position],
          [descriptor, bytes, 5]
        ])
        assert.deepStrictEqual(answers, ["0 written", `1 ${code}`, `2 ${code}`])
        assert.isFalse(thread.takesOrders)
        assert.deepStrictEqual(yield* giveAll(thread, [[descriptor, bytes, 0]]), ["0 ECANCELED"])
      }).pipe(Effect.scoped))
  }

  it.live("an error that has no name in this system has one all the same", () =>
    Effect.gen(function*() {
      for (const [errno, code] of [[28, "ENOSPC"], [7777, "EUNKNOWN"]] as const) {
        const thread = yield* startThread("failingWriter")
        assert.deepStrictEqual(yield* giveAll(thread, [[0, filled(1, 1), errno]]), [`0 ${code}`])
      }
    }).pipe(Effect.scoped))

  it.live("memory that cannot be handed over is a failure of that order, and of what is behind it", () =>
    Effect.gen(function*() {
      const { descriptor, path } = yield* newFile
      const thread = yield* startThread()
      const first = filled(1, 1)
      const known = giveAll(thread, [[descriptor, first, 0]])
      assert.deepStrictEqual(yield* known, ["0 written"])
      const refused = Object.assign(new Error("cannot be cloned"), { code: "EREFUSED" })
      Reflect.set(workerOf(thread), "postMessage", () => {
        throw refused
      })
      const answers = yield* giveAll(thread, [[descriptor, filled(1, 2), 1], [descriptor, first, 2]])
      assert.deepStrictEqual(answers, ["0 EREFUSED", "1 ECANCELED"])
      assert.isFalse(thread.takesOrders)
      assert.deepStrictEqual([...NodeFs.readFileSync(path)], [1])
    }).pipe(Effect.scoped))

  it.live("one that is never ready takes nothing, and can be stopped", () =>
    Effect.gen(function*() {
      const thread = new WriteThread(program("silentWriter"))
      const happened = (event: string) =>
        Effect.callback<void>((resume) => void workerOf(thread).once(event, () => resume(Effect.void)))
      yield* happened("online")
      assert.isFalse(thread.takesOrders)
      thread.stop()
      yield* happened("exit")
      assert.isFalse(thread.takesOrders)
    }))

  for (const orders of [0, 3]) {
    it.live(`a process ends by itself when ${orders} orders are carried out, and not before`, () =>
      Effect.gen(function*() {
        const { path } = yield* newFile
        const [code, told] = yield* Effect.callback<readonly [number | null, string]>((resume) => {
          const child = spawn(
            process.execPath,
            ["--no-warnings", program("writeInThread").pathname, path, String(orders)],
            { stdio: ["ignore", "pipe", "inherit"], timeout: 20_000 }
          )
          let told = ""
          child.stdout.setEncoding("latin1").on("data", (text: string) => (told += text))
          child.on("close", (code) => resume(Effect.succeed([code, told] as const)))
        })
        assert.deepStrictEqual([code, told], [0, "written\n".repeat(orders)])
        assert.strictEqual(NodeFs.statSync(path).size, orders * (1 << 20))
      }).pipe(Effect.scoped))
  }
})

describe("WriteOrders", () => {
  for (const start of [2 ** 31 - 8, -8, 0]) {
    it(`keeps orders and outcomes apart while counts wrap around from ${start}`, () => {
      const buffer = makeOrdersBuffer()
      new Int32Array(buffer).fill(start, 0, 2)
      const ordering = new WriteOrders(buffer)
      const writing = new WriteOrders(buffer)
      const orderOf = (number: number): Order => ({
        memory: number % 8,
        introductions: number,
        offset: 2 ** 33 + number,
        length: number + 1,
        descriptor: number + 2,
        position: Number.MAX_SAFE_INTEGER - number
      })
      let seen = ordering.done
      let given = 0
      let done = 0
      for (let round = 0; round < 10; round++) {
        const most = 1 + round % ringEntries
        for (let count = 0; count < most; count++) ordering.give(orderOf(given++))
        if (most === ringEntries) assert.throws(() => ordering.give(orderOf(given)), InvariantViolation)
        for (let count = 0; count < most; count++) {
          assert.deepStrictEqual(writing.awaitOrder(), orderOf(done))
          const outcome = done % 3 === 0
            ? { kind: "written" } as const
            : done % 3 === 1
            ? { kind: "notBegun" } as const
            : { kind: "failed", errno: -done } as const
          writing.finish(outcome)
          assert.strictEqual(ordering.done, (seen + 1) | 0)
          assert.deepStrictEqual(ordering.outcomeOf(seen), outcome)
          seen = ordering.done
          done++
        }
        assert.strictEqual(ordering.ordered, ordering.done)
      }
      assert.strictEqual(seen, (start + done) | 0)
      assert.isAbove(done, 20)
    })
  }

  it.live("who waits is called when more are done, when that has happened already, and when it is woken", () =>
    Effect.promise(async () => {
      const orders = new WriteOrders(makeOrdersBuffer())
      const called = (seen: number) => new Promise<void>((resolve) => orders.whenMoreThan(seen, resolve))
      let isEarly = true
      const first = called(0).then(() => assert.isFalse(isEarly))
      await Promise.resolve()
      isEarly = false
      orders.finish({ kind: "written" })
      await first
      await called(0)
      const woken = called(1)
      orders.wakeOrdering()
      await woken
    }))
})
