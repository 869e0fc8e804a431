/**
 * Open-file-description locks of Linux, as bytes: `struct flock` and the commands that take it.
 *
 * `struct flock` on 64-bit systems, 32 bytes: type i16 @0, whence i16 @2 (0 = from the start of the file), start i64 @8,
 * length i64 @16, pid i32 @24 (must be 0). `fcntl` answers 0, or EAGAIN or EACCES when somebody else's lock is in the
 * way.
 *
 * @internal
 */
import * as NodeOs from "node:os"
import type { LockRange } from "../FileLock.ts"
import type { Native } from "./native.ts"

const getLock = 36
const setLock = 37
const typeOf = { shared: 0, exclusive: 1, none: 2 } as const

export type LockType = keyof typeof typeOf

const flock = (type: LockType, range: LockRange): DataView<ArrayBuffer> => {
  const view = new DataView(new ArrayBuffer(32))
  view.setInt16(0, typeOf[type], true)
  view.setBigInt64(8, BigInt(range.start), true)
  view.setBigInt64(16, BigInt(range.length), true)
  return view
}

const bytesOf = (view: DataView<ArrayBuffer>) => new Uint8Array(view.buffer)

/** Takes, changes or gives back a lock: 0, or the errno. */
export const setRangeLock = (native: Native, descriptor: number, type: LockType, range: LockRange): number =>
  native.fcntl(descriptor, setLock, bytesOf(flock(type, range)))

export const isConflict = (errno: number): boolean =>
  errno === NodeOs.constants.errno.EAGAIN || errno === NodeOs.constants.errno.EACCES

/** Whether a lock like this would be refused now, without taking it; or the errno. */
export const askRangeLock = (
  native: Native,
  descriptor: number,
  type: "shared" | "exclusive",
  range: LockRange
): boolean | number => {
  const question = flock(type, range)
  const errno = native.fcntl(descriptor, getLock, bytesOf(question))
  return errno === 0 ? question.getInt16(0, true) !== typeOf.none : errno
}

/**
 * The byte that the self-test locks, far behind everything that anybody else does: the last one whose number is safe.
 */
const probeRange: LockRange = { start: Number.MAX_SAFE_INTEGER - 1, length: 1 }

/**
 * Whether a lock taken through one open of a file is seen through another, which is all that this package rests on: it
 * takes a shared lock through `first` and asks through `second` whether an exclusive one would pass. Any number of
 * processes may do that at the same time. Answers `undefined` when all is well, else a sentence.
 */
export const probeLocks = (native: Native, first: number, second: number): string | undefined => {
  const taken = setRangeLock(native, first, "shared", probeRange)
  if (taken !== 0) return `the system refuses open-file-description locks (errno ${taken})`
  const asked = askRangeLock(native, second, "exclusive", probeRange)
  setRangeLock(native, first, "none", probeRange)
  if (typeof asked === "number") return `the system does not answer questions about locks (errno ${asked})`
  return asked ? undefined : "a lock taken through one open of the file is not seen through another"
}
