/**
 * Native access: the functions of libc that Node does not offer.
 *
 * Two ways lead there: `koffi` (an optional dependency, loaded when it is first needed) and `node:ffi` (Node 26.1 and
 * newer, not with `--no-experimental-ffi`). Where there is neither, `loadNative` says why, and who needs native access
 * says so with a typed error.
 *
 * Only 64-bit little-endian Linux is claimed: structure layouts and command numbers are those of x64 and arm64, and
 * there the variadic `fcntl` takes its third argument where an ordinary function would.
 *
 * @internal
 */
import * as Result from "effect/Result"
import type Koffi from "koffi"
import type * as NodeFfi from "node:ffi"
import { createRequire } from "node:module"
import type { NativeBackend } from "../FileLock.ts"

export interface Native {
  readonly backend: NativeBackend
  /** `fcntl` with a pointer to `argument`: 0, or the errno. */
  readonly fcntl: (descriptor: number, command: number, argument: Uint8Array) => number
  /** `lseek`: the position, or the errno negated. */
  readonly lseek: (descriptor: number, offset: number, whence: number) => number
  /**
   * `mmap` to a fixed place: shows the first bytes of a file, shared, for reading and writing, where `buffer` has its
   * memory. 0, or the errno.
   */
  readonly mapOver: (buffer: SharedArrayBuffer, descriptor: number) => number
  /** Puts private zeros there again, so that nothing holds the file any more. 0, or the errno. */
  readonly mapZeros: (buffer: SharedArrayBuffer) => number
}

/** The numbers of `mmap` on x64 and arm64. */
const readWrite = 0x1 | 0x2
const sharedFixed = 0x01 | 0x10
const privateFixedAnonymous = 0x02 | 0x10 | 0x20

const require = createRequire(import.meta.url)

const loadKoffi = (): Native => {
  // What `require` answers is untyped; the package's own types describe it.
  const koffi = require("koffi") as typeof Koffi
  const libc = koffi.load(null)
  const fcntl = libc.func("int fcntl(int descriptor, int command, _Inout_ void *argument)")
  const lseek = libc.func("int64_t lseek(int descriptor, int64_t offset, int whence)")
  // Addresses are given and answered as numbers (answered as a bigint only when large): nothing is to be wrapped or freed.
  const mmap = libc.func(
    "uint64_t mmap(uint64_t address, uint64_t length, int protection, int flags, int descriptor, int64_t offset)"
  )
  const map = (buffer: SharedArrayBuffer, flags: number, descriptor: number): number => {
    const address = koffi.address(new Uint8Array(buffer))
    const mapped: unknown = mmap(address, buffer.byteLength, readWrite, flags, descriptor, 0)
    return String(mapped) === String(address) ? 0 : koffi.errno()
  }
  return {
    backend: "koffi",
    fcntl: (descriptor, command, argument) => fcntl(descriptor, command, argument) === 0 ? 0 : koffi.errno(),
    lseek: (descriptor, offset, whence) => {
      const position = Number(lseek(descriptor, offset, whence))
      return position >= 0 ? position : -koffi.errno()
    },
    mapOver: (buffer, descriptor) => map(buffer, sharedFixed, descriptor),
    mapZeros: (buffer) => map(buffer, privateFixedAnonymous, -1)
  }
}

const loadNodeFfi = (): Native => {
  // As above. Loaded only when it is needed: importing it prints an experimental warning.
  const ffi = require("node:ffi") as typeof NodeFfi
  const { functions } = ffi.dlopen(null, {
    fcntl: { arguments: ["int32", "int32", "pointer"], return: "int32" },
    lseek: { arguments: ["int32", "int64", "int32"], return: "int64" },
    mmap: { arguments: ["uint64", "uint64", "int32", "int32", "int32", "int64"], return: "uint64" },
    __errno_location: { arguments: [], return: "pointer" }
  })
  // The address belongs to this thread, as this module does: each worker thread loads its own.
  const errnoAddress = functions.__errno_location()
  const errno = () => ffi.getInt32(errnoAddress)
  const map = (buffer: SharedArrayBuffer, flags: number, descriptor: number): number => {
    const address = ffi.getRawPointer(new Uint8Array(buffer))
    const mapped = functions.mmap(address, BigInt(buffer.byteLength), readWrite, flags, descriptor, 0n)
    return mapped === address ? 0 : errno()
  }
  return {
    backend: "node:ffi",
    fcntl: (descriptor, command, argument) => functions.fcntl(descriptor, command, argument) === 0 ? 0 : errno(),
    lseek: (descriptor, offset, whence) => {
      const position = Number(functions.lseek(descriptor, BigInt(offset), whence))
      return position >= 0 ? position : -errno()
    },
    mapOver: (buffer, descriptor) => map(buffer, sharedFixed, descriptor),
    mapZeros: (buffer) => map(buffer, privateFixedAnonymous, -1)
  }
}

/** The first of the backends that loads, or one sentence about why none does. */
export const loadNative = (backends: ReadonlyArray<NativeBackend>): Result.Result<Native, string> => {
  if (process.platform !== "linux" || (process.arch !== "x64" && process.arch !== "arm64")) {
    return Result.fail(`native access is implemented for Linux on x64 and arm64, not for ${process.platform}`)
  }
  const reasons: Array<string> = []
  for (const backend of backends) {
    try {
      return Result.succeed(backend === "koffi" ? loadKoffi() : loadNodeFfi())
    } catch (cause) {
      reasons.push(`${backend} does not load (${String(cause).split("\n", 1).join("")})`)
    }
  }
  return Result.fail(["there is no native access", ...reasons].join("; "))
}
