/**
 * Memory whose bytes a file can take without a copy, when they are written with `tail` (`VfsFile.writeAndSyncData`).
 *
 * **Details**
 *
 * Past the page cache the system takes whole blocks from memory that begins at a page, which the memory of an
 * `ArrayBuffer` does not. It is shared memory, so that a thread of the platform can write from it. So the bytes have to
 * lie in memory of this kind, and in their blocks as they are to lie in the blocks of the file: the byte for position `p`
 * at an offset that leaves the same rest by {@link blockBytes}. What else is in the first and the last of these blocks
 * belongs to the file until the call is done; it fills them, at once or when the write gets its turn. So the bytes of two
 * calls that are under way lie in different blocks of memory, even if they share one of the file. Bytes that lie otherwise
 * are copied, and the result is the same.
 *
 * A long read (`VfsFile.read`) fills memory of this kind in the same way: bytes that lie as their blocks do in the file
 * may come without a copy, and then everything else in the first and the last of these blocks is overwritten, too.
 *
 * Where WebAssembly is missing (`node --jitless`) or has no memory left it is plain memory, and everything is copied.
 *
 * **Example** (In place)
 *
 * ```ts
 * import * as TailMemory from "@tidemark/platform/TailMemory"
 *
 * const memory = TailMemory.make(65_536)
 * const position = 12_345
 * const first = position % TailMemory.blockBytes
 * memory.set([1, 2, 3], first)
 * memory.subarray(first, first + 3).length // => 3
 * ```
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"

/**
 * Bytes of a block: a multiple of the blocks of every device in use, and the page of memory that transfers begin at.
 *
 * @category constants
 * @since 0.1.0
 */
export const blockBytes = 4096

/** What is used of the global of this name, which the ECMAScript library does not declare. */
declare const WebAssembly: undefined | {
  readonly Memory: new(
    size: { readonly initial: number; readonly maximum: number; readonly shared: true }
  ) => { readonly buffer: SharedArrayBuffer }
}

/** The unit of the memory of a WebAssembly module, which comes from the system in pages. */
const pageBytes = 65_536

/** Node's own copy. It asks for no more than an `Uint8Array`, which it is given by `call`. */
const copyBlock: undefined | ((this: Uint8Array, target: Uint8Array, targetStart: number) => number) =
  // oxlint-disable-next-line typescript/unbound-method -- whoever calls it says what it is a method of
  typeof Buffer === "undefined" ? undefined : Buffer.alloc(0).copy

const made = new WeakSet<ArrayBufferLike>()

/**
 * At least `length` bytes, zeros. Most systems give them for real only when they are written.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (length: number): Uint8Array => {
  invariant(Number.isSafeInteger(length) && length > 0, "memory has at least one byte")
  const pages = Math.ceil(length / pageBytes)
  if (typeof WebAssembly === "undefined") return new Uint8Array(pages * pageBytes)
  try {
    const { buffer } = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true })
    made.add(buffer)
    return new Uint8Array(buffer)
  } catch {
    // It reserves many times as much of the address space, which a limit may not allow.
    return new Uint8Array(pages * pageBytes)
  }
}

/**
 * Whether {@link make} made it, and it begins at a page.
 *
 * @category guards
 * @since 0.1.0
 */
export const isTailMemory = (buffer: ArrayBufferLike): boolean => made.has(buffer)

/**
 * `target.set(source, offset)`, faster where `target` is memory of this kind: into shared memory `set` copies word by
 * word, because another thread might look on.
 *
 * @category copying
 * @since 0.1.0
 */
export const copyTo = (target: Uint8Array, source: Uint8Array, offset: number): void => {
  invariant(offset >= 0 && offset + source.length <= target.length, "what is copied has room")
  if (copyBlock === undefined) target.set(source, offset)
  else copyBlock.call(source, target, offset)
}
