/**
 * Memory that several threads, and with the file layer several processes, see at the same time: 64-bit words under a
 * name.
 *
 * **Details**
 *
 * 1. Every operation on a word is atomic and sequentially consistent, between threads and between processes.
 * 2. A name is given to one memory after another, never to a part of one: `create` makes a new memory and gives it the
 *    name in one step. Who has the old one keeps it and finds out by asking for the identity.
 * 3. Memory that has been given out is not taken away: a region that was closed refuses to be used, but what it
 *    showed stays mapped as long as anybody refers to the buffer. An access can therefore not kill the process on our
 *    account; what somebody else can do to a mapped file stands at {@link SharedMemory}.
 * 4. Nothing here outlives a power loss in any order that could be relied on. The contents are rebuilt from what was
 *    synced elsewhere.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { NativeBackend } from "./FileLock.ts"
import { makeFileRegions } from "./internal/fileRegions.ts"
import { makeMemoryRegions, type MemoryBlock } from "./internal/memoryRegions.ts"
import { originOf, WordRegion } from "./internal/wordRegion.ts"
import * as NodeVfs from "./NodeVfs.ts"
import type { SharedMemoryUnavailable, SharedMemoryUnmappable } from "./SharedMemoryErrors.ts"
import { Vfs } from "./Vfs.ts"
import type { VfsError } from "./VfsError.ts"

export { maxRegionBytes, regionGrainBytes } from "./internal/regionSize.ts"
export { SharedMemoryUnavailable, SharedMemoryUnmappable } from "./SharedMemoryErrors.ts"

/**
 * Whether a region can be seen by the threads of this process only, or by every process that has the file.
 *
 * @category models
 * @since 0.1.0
 */
export type SharedMedium = "memory" | "file"

/**
 * A run of shared memory, seen as 64-bit words.
 *
 * **Details**
 *
 * Offsets are in bytes and multiples of 8; any other, one outside of the region, and every operation after the scope of
 * the region was closed is a defect. Values are taken modulo 2^64, so `add(offset, -1n)` subtracts. Words are
 * little-endian where their bytes are seen, as in a file.
 *
 * @category models
 * @since 0.1.0
 */
export interface SharedRegion {
  /** The path, or the name in memory. */
  readonly name: string
  /** The length, a multiple of {@link regionGrainBytes}. */
  readonly bytes: number
  readonly medium: SharedMedium
  /** Which memory this is; another one of the same name has another identity. To be compared, not to be read. */
  readonly identity: string
  /**
   * The memory itself. It may be posted to a worker thread, which makes its own region of it with {@link regionOf}.
   */
  readonly buffer: SharedArrayBuffer
  load(offset: number): bigint
  store(offset: number, value: bigint): void
  /** Puts `replacement` where `expected` is. Answers what was there: `expected`, or what stood in the way. */
  compareExchange(offset: number, expected: bigint, replacement: bigint): bigint
  /** Adds, and answers what was there before. */
  add(offset: number, delta: bigint): bigint
  /**
   * Copies bytes out. Each word is read atomically, all of them together are not: a writer in between shows up in the
   * later words. `offset` is a multiple of 8, `length` any.
   */
  copy(offset: number, length: number): Uint8Array
  /**
   * Wakes at most `count` (default: all) of those who {@link SharedRegion.wait} for the low half of this word, and
   * answers how many. Only threads of this process are reached; another process does not notice.
   */
  notify(offset: number, count?: number): number
  /**
   * Waits until somebody notifies (`"woken"`), or answers at once when the low 32 bits of the word are not `expected`
   * (`"changed"`), without blocking the thread. The value may be anything by the time a waiter runs: load it again.
   *
   * The time comes from the `Clock`. Threads of this process are noticed at once; a change by another process
   * only by and by, within a fraction of a second of real time, since nothing announces it.
   */
  wait(
    offset: number,
    expected: number,
    timeout: Duration.Input
  ): Effect.Effect<"woken" | "changed" | "timed-out">
}

/**
 * A region over a buffer that another thread has posted.
 *
 * **Details**
 *
 * It belongs to no scope and stays open. `origin` is what the sender's region says of itself, for those who compare
 * identities; left out, the medium is `"memory"` and the identity is one of this thread's own.
 *
 * **Example** (Counting in a worker)
 *
 * ```ts
 * import { regionOf } from "@tidemark/platform/SharedMemory"
 * import { parentPort } from "node:worker_threads"
 *
 * parentPort?.on("message", ({ name, buffer }: { name: string; buffer: SharedArrayBuffer }) => {
 *   regionOf(name, buffer).add(0, 1n)
 * })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const regionOf = (
  name: string,
  buffer: SharedArrayBuffer,
  origin: { readonly medium: SharedMedium; readonly identity: string } = originOf(buffer)
): SharedRegion => new WordRegion(name, buffer, origin)

/**
 * What {@link SharedMemory} makes.
 *
 * @category models
 * @since 0.1.0
 */
export interface CreateRegionOptions {
  /** The length, at least; rounded up to a multiple of {@link regionGrainBytes}, at most {@link maxRegionBytes}. */
  readonly bytes: number
  /** The first bytes; zeros are behind them. */
  readonly content: Uint8Array
}

/**
 * Names of regions that several layers in memory share, as the programs of one machine share its files.
 *
 * @category models
 * @since 0.1.0
 */
export interface SharedRegions {
  readonly blocks: Map<string, MemoryBlock>
}

/**
 * A table of names for {@link SharedMemory.layerMemory}, empty.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeSharedRegions = (): SharedRegions => ({ blocks: new Map() })

/**
 * Shared memory under names: files that are mapped, or buffers of this process.
 *
 * **Gotchas**
 *
 * Who truncates a mapped file kills every process that touches the missing part (SIGBUS), and nothing in this process
 * can prevent it. Nothing here ever shortens a file: who wants another content calls `create`, which gives the name to a
 * new file and leaves the old one to those who have it.
 *
 * @category services
 * @since 0.1.0
 */
export class SharedMemory extends Context.Service<SharedMemory, {
  readonly medium: SharedMedium
  /**
   * The first `length` bytes under the name, fewer when there are fewer, without mapping them; `undefined` when there
   * is nothing.
   */
  readonly peek: (name: string, length: number) => Effect.Effect<Uint8Array | undefined, VfsError>
  /** The {@link SharedRegion.identity} of what is under the name now; `undefined` when there is nothing. */
  readonly identify: (name: string) => Effect.Effect<string | undefined, VfsError>
  /**
   * Opens what is there, all of it; `undefined` when there is nothing. The region belongs to the scope. Nothing is
   * written to a file that cannot be mapped safely: it is refused.
   */
  readonly open: (
    name: string
  ) => Effect.Effect<
    SharedRegion | undefined,
    SharedMemoryUnavailable | SharedMemoryUnmappable | VfsError,
    Scope.Scope
  >
  /**
   * Makes a new memory and gives it the name, in place of whatever had it; who has opened the old one keeps that. Others
   * see the name change from the old memory to the whole new one, never anything between. When it fails the old memory
   * still has the name.
   */
  readonly create: (
    name: string,
    options: CreateRegionOptions
  ) => Effect.Effect<SharedRegion, SharedMemoryUnavailable | VfsError, Scope.Scope>
}>()("@tidemark/platform/SharedMemory") {
  /**
   * Files of this machine, mapped through the first of the given ways that loads. With none of them `open` and `create`
   * fail with {@link SharedMemoryUnavailable}; `peek` and `identify` work.
   */
  static readonly layerFileBackends = (backends: ReadonlyArray<NativeBackend>): Layer.Layer<SharedMemory> =>
    Layer.effect(
      SharedMemory,
      Effect.map(Vfs, (vfs) => SharedMemory.of(makeFileRegions(vfs, backends)))
    ).pipe(Layer.provide(NodeVfs.layerVfs))

  /**
   * Files of this machine, mapped: through `koffi`, through `node:ffi` where koffi is missing. Linux only.
   */
  static readonly layerFile: Layer.Layer<SharedMemory> = this.layerFileBackends(["koffi", "node:ffi"])

  /**
   * Buffers of this process, for its threads. Several layers that are given the same `regions` see each other's names;
   * by default each layer has names of its own. Needs no native access and works on every platform.
   */
  static readonly layerMemory = (
    options?: { readonly regions?: SharedRegions | undefined }
  ): Layer.Layer<SharedMemory> =>
    Layer.sync(SharedMemory, () => SharedMemory.of(makeMemoryRegions((options?.regions ?? makeSharedRegions()).blocks)))
}
