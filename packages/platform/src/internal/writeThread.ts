/**
 * A thread of its own for the writes of one file, which are given to it while the one before is still under way.
 *
 * A caller that works beside its writes would otherwise have to be there when one ends for the next one to begin, and the
 * device would wait for it. Through the thread pool two of them would be on their way side by side.
 *
 * Orders and answers are messages; the bytes lie in shared memory and are not copied. Both queues keep their order, so
 * the first answer belongs to the first order that has none. Decision 0019 has the figures.
 *
 * Invariants
 * 1. Orders are carried out one after the other. Behind one that failed none is begun.
 * 2. Each order is answered once: by the thread, or when the thread has ended without it. Then nobody knows what of it
 *    was written.
 * 3. The thread keeps the process alive while an order is under way, and only then.
 */
import { invariant } from "@tidemark/core/Invariant"
import { Worker } from "node:worker_threads"
import { type CodedError, notBegun, withCode } from "./transfer.ts"

/** What is to be written to a descriptor whose writes are synced by themselves. */
export interface Order {
  readonly descriptor: number
  readonly bytes: Uint8Array
  readonly position: number
}

/** What the thread says of an order, and once before the first one: nothing when all is well. */
export type Answer = CodedError | null

/** Compiled or not, the program lies beside this file. */
const programOfThread = new URL(`./writeThreadProgram${/\.[jt]s$/.exec(import.meta.url)?.[0] ?? ".js"}`, import.meta.url)

type Done = (cause: unknown) => void

export class WriteThread {
  private readonly worker: Worker
  /** Who ordered what has no answer yet. */
  private readonly ordered: Array<Done> = []
  private isReady = false
  private hasEnded = false

  /** Throws where the process may not have threads. The thread is ready a while later, or never. */
  constructor(program: URL = programOfThread) {
    // Hooks and loaders of the main thread are not for this one.
    this.worker = new Worker(program, { name: "tidemark writes", execArgv: [] })
    this.worker.unref()
    this.worker.on("message", (answer: Answer) => this.answered(answer))
    this.worker.on("error", (cause) => this.end(cause))
    this.worker.on("exit", () => this.end(withCode({ code: "EIO", message: "the thread that writes has ended" })))
  }

  /** Whether it takes orders now: after a failure never again. */
  get takesOrders(): boolean {
    return this.isReady && !this.hasEnded
  }

  /** `done` is called once, later or now, with what went wrong or `null`. The bytes are shared memory. */
  write(order: Order, done: Done): void {
    invariant(order.bytes.buffer instanceof SharedArrayBuffer, "a thread is given shared memory")
    if (this.hasEnded) return done(withCode(notBegun))
    if (this.ordered.length === 0) this.worker.ref()
    this.ordered.push(done)
    this.worker.postMessage(order)
  }

  /** When no order is under way. */
  stop(): void {
    invariant(this.ordered.length === 0, "a thread is stopped when all is written")
    this.hasEnded = true
    void this.worker.terminate()
  }

  private answered(answer: Answer): void {
    // The first one belongs to no order: the program is there.
    if (!this.isReady) {
      this.isReady = true
      return
    }
    const done = this.ordered.shift()
    invariant(done !== undefined, "a thread answers what it was ordered")
    if (this.ordered.length === 0) this.worker.unref()
    if (answer !== null) this.hasEnded = true
    done(answer === null ? null : withCode(answer))
  }

  private end(cause: unknown): void {
    this.hasEnded = true
    for (const done of this.ordered.splice(0)) done(cause)
  }
}
