/**
 * A thread of its own for the writes of one file, which is given the next one while the one before is still under way.
 *
 * A caller that works beside its writes would otherwise have to be there when one ends for the next one to begin, and the
 * device would wait for it. Through the thread pool two of them would be on their way side by side. Decision 0019 has the
 * figures.
 *
 * Invariants
 * 1. Orders are carried out one after the other. Behind one that failed none is begun.
 * 2. Each order is answered once, in their order: by the thread, or when the thread has ended without it. Then nobody
 *    knows what of it was written.
 * 3. The thread keeps the process alive while an order is under way, and only then.
 */
import { invariant } from "@tidemark/core/Invariant"
import { getSystemErrorName } from "node:util"
import { Worker } from "node:worker_threads"
import { notBegun, withCode } from "./transfer.ts"
import { type Introduction, makeOrdersBuffer, next, type Outcome, ringEntries, WriteOrders } from "./writeOrders.ts"

/** Compiled or not, the program lies beside this file. */
const programOfThread = new URL(
  `./writeThreadProgram${/\.[jt]s$/.exec(import.meta.url)?.[0] ?? ".js"}`,
  import.meta.url
)

/** Pieces of memory that the thread knows at a time. It keeps them from being collected. */
const knownMemories = 8

/** Called once, later or now, with what went wrong or `null`. */
type Done = (cause: unknown) => void

export class WriteThread {
  private readonly worker: Worker
  private readonly orders: WriteOrders
  /** Who has not been answered. */
  private readonly waiting: Array<Done> = []
  private readonly memories: Array<SharedArrayBuffer> = []
  private introductions = 0
  /** Orders that were answered. */
  private answered = 0
  private isWatching = false
  private hasEnded = false

  /** Throws where the process may not have threads. The thread is ready a while later, or never. */
  constructor(program: URL = programOfThread) {
    const shared = makeOrdersBuffer()
    this.orders = new WriteOrders(shared)
    // Hooks and loaders of the main thread are not for this one.
    this.worker = new Worker(program, { name: "tidemark writes", execArgv: [], workerData: shared })
    this.worker.unref()
    this.worker.on("error", (cause) => this.end(cause))
    this.worker.on("exit", () => this.end(withCode({ code: "EIO", message: "the thread that writes has ended" })))
  }

  get isRunning(): boolean {
    return !this.hasEnded
  }

  /** Whether it takes an order now: after a failure never again. */
  get takesOrders(): boolean {
    return !this.hasEnded && this.waiting.length < ringEntries && this.orders.isReady
  }

  /** Writes shared memory to a descriptor whose writes are synced by themselves. It takes orders. */
  write(descriptor: number, bytes: Uint8Array, position: number, done: Done): void {
    // It may have ended on its own since it was asked.
    if (this.hasEnded) return done(withCode(notBegun))
    invariant(this.takesOrders, "a thread is given what it takes")
    const { buffer, byteOffset: offset, length } = bytes
    invariant(buffer instanceof SharedArrayBuffer, "a thread is given shared memory")
    let memory: number
    try {
      memory = this.introduced(buffer)
    } catch (cause) {
      // It was not begun, and what was to come behind it must not be.
      this.hasEnded = true
      return done(cause)
    }
    this.orders.give({ memory, introductions: this.introductions, offset, length, descriptor, position })
    if (this.waiting.length === 0) this.worker.ref()
    this.waiting.push(done)
    if (!this.isWatching) this.watch()
  }

  /** When no order is under way. */
  stop(): void {
    invariant(this.waiting.length === 0, "a thread is stopped when all is written")
    this.hasEnded = true
    void this.worker.terminate()
  }

  /** The number of a piece of memory. Which one loses its number does not matter: earlier orders are carried out before. */
  private introduced(buffer: SharedArrayBuffer): number {
    const known = this.memories.indexOf(buffer)
    if (known >= 0) return known
    const memory = this.introductions % knownMemories
    const introduction: Introduction = { memory, buffer }
    this.worker.postMessage(introduction)
    this.introductions++
    this.memories[memory] = buffer
    return memory
  }

  private watch(): void {
    this.isWatching = true
    this.orders.whenMoreThan(this.answered, () => {
      this.isWatching = false
      this.answerDone()
      if (this.waiting.length > 0 && !this.isWatching) this.watch()
    })
  }

  private answerDone(): void {
    while (this.answered !== this.orders.done) this.answer(this.orders.outcomeOf(this.answered))
  }

  private answer(outcome: Outcome): void {
    this.answered = next(this.answered)
    const done = this.waiting.shift()
    invariant(done !== undefined, "each order is answered once")
    if (this.waiting.length === 0) this.worker.unref()
    if (outcome.kind === "written") return done(null)
    this.hasEnded = true
    done(withCode(outcome.kind === "notBegun" ? notBegun : systemError(outcome.errno)))
  }

  private end(cause: unknown): void {
    this.hasEnded = true
    // Those it was done with before do not suffer from its end.
    this.answerDone()
    for (const done of this.waiting.splice(0)) done(cause)
    this.orders.wakeOrdering()
  }
}

const systemError = (errno: number) => {
  const name = getSystemErrorName(errno)
  // What the runtime has no name for it describes by a sentence.
  const code = /^E\w+$/.test(name) ? name : "EUNKNOWN"
  return { code, message: `${name}: the thread that writes could not write` }
}
