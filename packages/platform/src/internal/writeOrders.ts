/**
 * What a thread that writes shares with the one that has it write: counts that both change atomically, and a ring of
 * orders. Messages would do; but they cost twice as much of the ordering thread's time (decision 0019).
 *
 * Invariants
 * 1. `ordered` is changed by the ordering thread alone, `done` by the writing one. At most `ringEntries` orders lie between
 *    the two. Counts wrap around at 2^32, which `ringEntries` divides.
 * 2. An order is in its entry before `ordered` counts it, its outcome before `done` counts it: who sees the count sees the
 *    entry, and the bytes that the order speaks of.
 */
import { invariant } from "@tidemark/core/Invariant"

/** Bytes of a piece of memory, for a descriptor whose writes are synced by themselves. */
export interface Order {
  /** The number under which the memory was introduced last. */
  readonly memory: number
  /** How many introductions came before this order. */
  readonly introductions: number
  readonly offset: number
  readonly length: number
  readonly descriptor: number
  readonly position: number
}

/** The message by which memory gets a number, instead of what had it before. */
export interface Introduction {
  readonly memory: number
  readonly buffer: SharedArrayBuffer
}

/** Orders that can be under way. */
export const ringEntries = 4

/** Indices of the words of 32 bits. */
const word = { ordered: 0, done: 1, isReady: 2 } as const
/** Indices of the fields of an entry. They are 64-bit floats, which hold every safe integer. */
const field = { memory: 0, introductions: 1, offset: 2, length: 3, descriptor: 4, position: 5, errno: 6 } as const
const fieldsPerEntry = 8
const ringOffset = 64

const sharedBytes = ringOffset + ringEntries * fieldsPerEntry * Float64Array.BYTES_PER_ELEMENT

export const makeOrdersBuffer = (): SharedArrayBuffer => new SharedArrayBuffer(sharedBytes)

/** The error number of an order that was not begun, because one before it failed. Those of the system are negative. */
const notBegunErrno = 1

export type Outcome =
  | { readonly kind: "written" }
  | { readonly kind: "notBegun" }
  | { readonly kind: "failed"; readonly errno: number }

/** Either side's view of what both share. */
export class WriteOrders {
  private readonly words: Int32Array
  private readonly entries: Float64Array

  constructor(buffer: SharedArrayBuffer) {
    this.words = new Int32Array(buffer, 0, ringOffset / Int32Array.BYTES_PER_ELEMENT)
    this.entries = new Float64Array(buffer, ringOffset)
  }

  get isReady(): boolean {
    return Atomics.load(this.words, word.isReady) === 1
  }

  get ordered(): number {
    return Atomics.load(this.words, word.ordered)
  }

  get done(): number {
    return Atomics.load(this.words, word.done)
  }

  // The ordering thread.

  give(order: Order): void {
    const { entries, ordered } = this
    invariant(((ordered - this.done) | 0) < ringEntries, "the ring has room for an order")
    const at = entryOf(ordered)
    entries[at + field.memory] = order.memory
    entries[at + field.introductions] = order.introductions
    entries[at + field.offset] = order.offset
    entries[at + field.length] = order.length
    entries[at + field.descriptor] = order.descriptor
    entries[at + field.position] = order.position
    Atomics.store(this.words, word.ordered, next(ordered))
    Atomics.notify(this.words, word.ordered)
  }

  outcomeOf(order: number): Outcome {
    const errno = this.entries[entryOf(order) + field.errno] ?? 0
    if (errno === 0) return { kind: "written" }
    return errno === notBegunErrno ? { kind: "notBegun" } : { kind: "failed", errno }
  }

  /** Calls back, later, when more are done than `seen`, or {@link WriteOrders.wakeOrdering} was called. */
  whenMoreThan(seen: number, call: () => void): void {
    const waiting = Atomics.waitAsync(this.words, word.done, seen)
    if (waiting.async) void waiting.value.then(call)
    else queueMicrotask(call)
  }

  wakeOrdering(): void {
    Atomics.notify(this.words, word.done)
  }

  // The writing thread.

  ready(): void {
    Atomics.store(this.words, word.isReady, 1)
  }

  /** The order that follows `done` ones, as soon as it is given. */
  awaitOrder(): Order {
    const { done, entries, words } = this
    while (this.ordered === done) Atomics.wait(words, word.ordered, done)
    const at = entryOf(done)
    return {
      memory: entries[at + field.memory] ?? 0,
      introductions: entries[at + field.introductions] ?? 0,
      offset: entries[at + field.offset] ?? 0,
      length: entries[at + field.length] ?? 0,
      descriptor: entries[at + field.descriptor] ?? 0,
      position: entries[at + field.position] ?? 0
    }
  }

  finish(outcome: Outcome): void {
    const { done } = this
    this.entries[entryOf(done) + field.errno] = outcome.kind === "failed"
      ? outcome.errno
      : outcome.kind === "notBegun"
      ? notBegunErrno
      : 0
    Atomics.store(this.words, word.done, next(done))
    Atomics.notify(this.words, word.done)
  }
}

/** The count behind this one. */
export const next = (count: number): number => (count + 1) | 0
const entryOf = (order: number) => ((order >>> 0) % ringEntries) * fieldsPerEntry
