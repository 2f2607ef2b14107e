# %% [markdown]
# # diagnose_a_checkpoint

# %%
print(1)
