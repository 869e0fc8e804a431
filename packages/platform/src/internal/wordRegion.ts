/**
 * A shared buffer as words.
 *
 * Invariants:
 * 1. Every access of a word goes through `Atomics`: a plain load may be moved or torn by another machine than x64.
 * 2. A closed region touches nothing, but the buffer stays: views of it may be in use in another thread.
 * 3. A notification that reaches a waiter who has given up is passed on, so that `notify(offset, 1)` reaches somebody who
 *    still waits, if anybody does. `Atomics.waitAsync` cannot be cancelled.
 *
 * @internal
 */
import { invariant } from "@tidemark/core/Invariant"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { SharedMedium, SharedRegion } from "../SharedMemory.ts"

/**
 * How long one `Atomics.waitAsync` lasts before it is renewed: for so long it occupies memory after its fiber has given
 * up, and so long a change by another process may stay unnoticed. Ten renewals a second cost nothing.
 */
const waitSliceMillis = 100

type WaitResult = "woken" | "changed" | "timed-out"

const wordBytes = 8

export class WordRegion implements SharedRegion {
  readonly name: string
  readonly bytes: number
  readonly medium: SharedMedium
  readonly identity: string
  readonly buffer: SharedArrayBuffer
  readonly #words: BigUint64Array<SharedArrayBuffer>
  readonly #halves: Int32Array<SharedArrayBuffer>
  /** Where the words end, or 0 once the region is closed: then no offset passes. */
  #end: number

  constructor(
    name: string,
    buffer: SharedArrayBuffer,
    origin: { readonly medium: SharedMedium; readonly identity: string }
  ) {
    invariant(buffer.byteLength > 0 && buffer.byteLength % wordBytes === 0, "a region consists of whole words")
    this.name = name
    this.bytes = buffer.byteLength
    this.medium = origin.medium
    this.identity = origin.identity
    this.buffer = buffer
    this.#words = new BigUint64Array(buffer)
    this.#halves = new Int32Array(buffer)
    this.#end = buffer.byteLength
  }

  close(): void {
    this.#end = 0
  }

  load(offset: number): bigint {
    return Atomics.load(this.#words, this.#indexOf(offset))
  }

  store(offset: number, value: bigint): void {
    Atomics.store(this.#words, this.#indexOf(offset), value)
  }

  compareExchange(offset: number, expected: bigint, replacement: bigint): bigint {
    return Atomics.compareExchange(this.#words, this.#indexOf(offset), expected, replacement)
  }

  add(offset: number, delta: bigint): bigint {
    return Atomics.add(this.#words, this.#indexOf(offset), delta)
  }

  copy(offset: number, length: number): Uint8Array {
    invariant(Number.isSafeInteger(length) && length >= 0, "a length is an integer, not negative")
    if (length === 0) return new Uint8Array(0)
    const first = this.#indexOf(offset)
    const count = Math.ceil(length / wordBytes)
    invariant(offset + length <= this.#end, "what is copied lies in the region")
    const view = new DataView(new ArrayBuffer(count * wordBytes))
    for (let index = 0; index < count; index++) {
      view.setBigUint64(index * wordBytes, Atomics.load(this.#words, first + index), true)
    }
    return new Uint8Array(view.buffer, 0, length)
  }

  notify(offset: number, count?: number): number {
    return Atomics.notify(this.#halves, this.#indexOf(offset) * 2, count)
  }

  wait(offset: number, expected: number, timeout: Duration.Input): Effect.Effect<WaitResult> {
    return Effect.suspend(() => {
      const index = this.#indexOf(offset) * 2
      const halves = this.#halves
      if (Atomics.load(halves, index) !== (expected | 0)) return Effect.succeed("changed")
      return Effect.timeoutOrElse(waitForNotify(halves, index, expected | 0), {
        duration: Duration.max(Duration.fromInputUnsafe(timeout), Duration.zero),
        orElse: () => Effect.succeed<WaitResult>("timed-out")
      })
    })
  }

  #indexOf(offset: number): number {
    // Written out and not as invariants: it stands in front of operations that take a few nanoseconds.
    if (offset % wordBytes !== 0 || !(offset >= 0 && offset < this.#end)) this.#refuse(offset)
    return offset / wordBytes
  }

  #refuse(offset: number): never {
    invariant(this.#end > 0, `the region ${this.name} is not used after its scope was closed`)
    invariant(offset % wordBytes === 0, `the offset ${offset} of a word is a multiple of ${wordBytes}`)
    invariant(false, `the offset ${offset} lies in the ${this.bytes} bytes of ${this.name}`)
  }
}

const waitForNotify = (halves: Int32Array<SharedArrayBuffer>, index: number, expected: number) =>
  Effect.callback<WaitResult>((resume) => {
    let hasGivenUp = false
    const waitOnce = () => {
      const waiting = Atomics.waitAsync(halves, index, expected, waitSliceMillis)
      if (!waiting.async) return resume(Effect.succeed("changed"))
      void waiting.value.then((outcome) => {
        if (outcome === "timed-out") return hasGivenUp ? undefined : waitOnce()
        if (hasGivenUp) Atomics.notify(halves, index, 1)
        else resume(Effect.succeed("woken"))
      })
    }
    waitOnce()
    return Effect.sync(() => {
      hasGivenUp = true
    })
  })

let numbered = 0
const numberOf = new WeakMap<SharedArrayBuffer, number>()

/** What tells one buffer in memory from another one, in this thread. */
export const originOf = (buffer: SharedArrayBuffer): { readonly medium: "memory"; readonly identity: string } => {
  const number = numberOf.get(buffer) ?? ++numbered
  numberOf.set(buffer, number)
  return { medium: "memory", identity: `memory:${number}` }
}
