/**
 * Domain types of Tidemark: scalars, snapshots, the base of its errors, codec helpers. No I/O.
 *
 * @since 0.1.0
 */
export * from "./BinaryFormat.ts"
export * from "./Invariant.ts"
export * from "./ScalarBytes.ts"
export * from "./Scalars.ts"
export * from "./Snapshot.ts"
export * from "./TidemarkError.ts"
