/**
 * What Tidemark needs of the outside world.
 *
 * @since 0.1.0
 */
export * from "./Checksum.ts"
export * from "./FileLock.ts"
export * from "./MemoryDisk.ts"
export * as MemoryVfs from "./MemoryVfs.ts"
export * as NodeVfs from "./NodeVfs.ts"
export * from "./ProcessLiveness.ts"
export * from "./SharedMemory.ts"
export * as TailMemory from "./TailMemory.ts"
export * from "./Vfs.ts"
export * from "./VfsError.ts"
