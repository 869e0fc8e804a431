/**
 * A file as a `SharedArrayBuffer`: the pages of a WebAssembly memory are replaced by those of the file.
 *
 * Node has no call that maps a file, and a pointer that a native library makes into an `ArrayBuffer` is not shared: it
 * cannot be posted to a worker, nobody can wait on it, and nobody takes the mapping back. The buffer of a shared
 * WebAssembly memory can all of that. Its memory comes in whole pages of 64 KiB, aligned, and V8 leaves the pages alone
 * until nobody refers to the buffer any more, when it gives the whole run of addresses back, and the mapping with it.
 *
 * Invariants:
 * 1. Only a file that has a block for each of its bytes is mapped ({@link unmappable}): touching a page behind the end,
 *    or storing into one for which a full disk has no block, kills the process (SIGBUS).
 * 2. A mapping is as long as the file, and nothing here makes a file shorter.
 * 3. The trick rests on what V8 does and does not promise. Each device is tried once with a file of our own
 *    ({@link proveMapping}) before anybody's file is mapped.
 *
 * @internal
 */
import * as Result from "effect/Result"
import * as NodeFs from "node:fs"
import type { Native } from "./native.ts"
import { maxRegionBytes, regionGrainBytes } from "./regionSize.ts"

interface WasmMemoryConstructor {
  new(options: { readonly initial: number; readonly maximum: number; readonly shared: true }): {
    readonly buffer: SharedArrayBuffer
  }
}

/** The compiler's library without a browser does not know WebAssembly. */
const wasm = () => (globalThis as unknown as { readonly WebAssembly: { readonly Memory: WasmMemoryConstructor } })

/** `lseek` to the next hole from there on; the end of a file counts as one. */
const seekHole = 4

/** Blocks of `stat` have this size, whatever those of the file system have. */
const statBlockBytes = 512

/**
 * Why this file may not be mapped, as a sentence; `undefined` when it may. Reads nothing of it and changes nothing.
 *
 * A file system that cannot tell its holes answers that there is none; then the count of blocks tells. It also tells a
 * file that is compressed, whose blocks may be too few for other contents. Blocks that were reserved but never written
 * (`fallocate`) count as a hole with ext4 until somebody has read them, and with tmpfs always. They are no danger, so it
 * does not matter which answer comes.
 */
export const unmappable = (native: Native, descriptor: number, stats: NodeFs.BigIntStats): string | undefined => {
  if (!stats.isFile()) return "it is no regular file"
  const size = Number(stats.size)
  if (size === 0 || size % regionGrainBytes !== 0) return `its ${size} bytes are no multiple of ${regionGrainBytes}`
  if (size > maxRegionBytes) return `its ${size} bytes are more than ${maxRegionBytes}`
  const hole = native.lseek(descriptor, 0, seekHole)
  if (hole < 0) return `the system does not say whether it has holes (errno ${-hole})`
  if (hole < size) return `it has a hole at byte ${hole}`
  const stored = Number(stats.blocks) * statBlockBytes
  if (stored < size) return `it takes ${stored} bytes on the disk for its ${size}: it has holes, or is compressed`
  return undefined
}

/** Maps the first `bytes` of a file that {@link unmappable} has nothing against, or says in a sentence why it does not work. */
export const mapDescriptor = (
  native: Native,
  descriptor: number,
  bytes: number
): Result.Result<SharedArrayBuffer, string> => {
  const pages = bytes / regionGrainBytes
  let buffer
  try {
    const { WebAssembly } = wasm()
    ;({ buffer } = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }))
  } catch (cause) {
    return Result.fail(`there is no memory to map it into (${String(cause)})`)
  }
  const errno = native.mapOver(buffer, descriptor)
  return errno === 0 ? Result.succeed(buffer) : Result.fail(`the system refuses the mapping (errno ${errno})`)
}

/**
 * Whether what is stored through a mapping arrives in the file and the other way round, tried on a private file of
 * {@link regionGrainBytes} bytes: `undefined` when all is well, else a sentence.
 */
export const proveMapping = (native: Native, descriptor: number): string | undefined => {
  const mapped = mapDescriptor(native, descriptor, regionGrainBytes)
  if (Result.isFailure(mapped)) return mapped.failure
  const problem = exchangeWords(new BigUint64Array(mapped.success), descriptor)
  // Nobody else has this buffer. Without this the file would keep its blocks until the garbage collector comes.
  const errno = native.mapZeros(mapped.success)
  return problem ?? (errno === 0 ? undefined : `the system does not take a mapping back (errno ${errno})`)
}

const exchangeWords = (words: BigUint64Array, descriptor: number): string | undefined => {
  const word = new BigUint64Array(1)
  for (const index of [0, words.length - 1]) {
    const position = index * words.BYTES_PER_ELEMENT
    Atomics.store(words, index, 0x0123_4567_89ab_cdefn)
    NodeFs.readSync(descriptor, word, 0, word.byteLength, position)
    if (word[0] !== 0x0123_4567_89ab_cdefn) return "what is stored in a mapping does not arrive in the file"
    word[0] = 0xfedc_ba98_7654_3210n
    NodeFs.writeSync(descriptor, word, 0, word.byteLength, position)
    if (Atomics.load(words, index) !== word[0]) return "what is written to a file is not seen in its mapping"
  }
  return undefined
}
